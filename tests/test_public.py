"""What `import carvana` gives, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import carvana


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_it_loads_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; before = set(sys.modules); import carvana;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    assert python(program) == "carvana"


def test_recipes_names_and_errors_need_no_torch() -> None:
    program = (
        "import sys, carvana; carvana.load_config('default'); carvana.FitConfig; carvana.CarvanaError; carvana.Run;"
        "carvana.register_arch('mine', 'mine:build'); print('torch' in sys.modules)"
    )
    assert python(program) == "False"


def test_every_public_name_is_there_and_listed() -> None:
    for name in carvana.__all__:
        assert getattr(carvana, name) is not None
        assert name in dir(carvana)
    star: dict[str, object] = {}
    exec("from carvana import *", star)
    assert set(carvana.__all__) <= star.keys()


def test_what_type_checkers_see_is_what_is_loaded() -> None:
    tree = ast.parse(Path(carvana.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen: dict[str, set[str | None]] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        assert all(alias.asname == alias.name for alias in statement.names)  # which exports it from here
        seen.setdefault(str(statement.module), set()).update(alias.name for alias in statement.names)
    assert seen.pop("carvana") == {"testing"}
    assert seen == {module: set(names) for module, names in carvana._HOMES.items()}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        carvana.no_such_name  # noqa: B018
