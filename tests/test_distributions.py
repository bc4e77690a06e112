"""What the wheel and the sdist hold: built once, from a copy of the tree with what a used checkout has lying about."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trove_classifiers import classifiers

ROOT = Path(__file__).parent.parent
# Bytes. A picture, a weight or a table of numbers that slips in is larger than a module ever is.
LARGEST_FILE = 50_000
# Bytes, compressed. Nearly all of it is code and its docstrings; with a few kB of room for the next feature, this tells
# of anything that slips in.
LARGEST_WHEEL = 750_000
FOLDERS = ("carvana", "configs", "docs", "plugins", "tests")
FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "pyproject.toml", "zensical.toml")
# What the package holds besides code: pages, recipes, and the files of a new plugin to be filled in.
KINDS = {".py", ".css", ".js", ".jinja", ".html", ".yaml", ".in"}

# Modules that are not called as the distribution that brings them.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "huggingface_hub": "huggingface-hub",
    "yaml": "PyYAML",
}
# Whoever imports pytest fixtures runs pytest, and a notebook's kernel has IPython; they are nobody else's dependency.
THERE_ALREADY = {
    "carvana/testing/": {"pytest"},
    "carvana/utils/progress.py": {"IPython"},
    "carvana/serve/": {
        "fastapi",
        "starlette",
        "uvicorn",
        "h11",
        "prometheus_client",
        "psutil",
    },  # extra serve; accelerate
}


def listed(root: Path) -> list[str]:
    """Files of the source tree as Git knows them; where there is no Git, all but hidden ones and caches."""
    if (root / ".git").exists():
        # New files that are not added yet count: whether they belong, is told by the test that they break.
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
            return sorted({name for name in names if name and (root / name).is_file()})
        except (OSError, subprocess.CalledProcessError):  # no git here, or the folder is somebody else's to it
            pass
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(_made(part) for part in path.parts))


def _made(part: str) -> bool:
    return part.startswith(".") or part in ("__pycache__", "PKG-INFO") or part.endswith(".egg-info")


class Built:
    """A wheel and an sdist, the wheel that the sdist gives, and the files that they were built from."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.sources = [name for name in listed(ROOT) if name.split("/")[0] in {*FOLDERS, *FILES, ".gitignore"}]
        for name in self.sources:
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, self.tree / name)
        shutil.copyfile(ROOT / ".gitignore", self.tree / ".gitignore")
        litter(self.tree)
        build(self.tree, folder / "dist", "--wheel", "--sdist")
        [self.wheel] = (folder / "dist").glob("*.whl")
        [self.sdist] = (folder / "dist").glob("*.tar.gz")
        with tarfile.open(self.sdist) as archive:
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in Python 3.11.0 to 3.11.3
            archive.extractall(folder / "unpacked", **safely)
        [self.unpacked] = (folder / "unpacked").iterdir()
        build(self.unpacked, folder / "again", "--wheel")
        [self.wheel_again] = (folder / "again").glob("*.whl")

    def of(self, folder: str) -> list[str]:
        return [name for name in self.sources if name.startswith(f"{folder}/")]


def litter(tree: Path) -> None:
    """Leave what working in a checkout leaves."""
    for name in (
        "carvana/__pycache__/run.cpython-311.pyc",
        "carvana/models/__pycache__/spec.cpython-311.pyc",
        "configs/__pycache__/old.pyc",
        "plugins/carvana-segnet/carvana_segnet.egg-info/PKG-INFO",
        "plugins/carvana-segnet/dist/carvana_segnet-0.1.0-py3-none-any.whl",
        "tests/__pycache__/conftest.pyc",
        "runs/unet-ref/model/model.safetensors",
        "demo-cars/train/00.jpg",
        "build/lib/carvana/run.py",
        ".venv/bin/python",
        "scratch.py",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"left over")


def build(source: Path, out: Path, *what: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(source)]
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="module")
def wheel(built: Built) -> dict[str, bytes]:
    return unzipped(built.wheel)


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return message_from_bytes(of_info(wheel, "METADATA"))


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        return {name: archive.read(name) for name in names}


def of_info(wheel: dict[str, bytes], name: str) -> bytes:
    [content] = [data for path, data in wheel.items() if re.fullmatch(rf"carvana-[^/]+\.dist-info/(.+/)?{name}", path)]
    return content


def test_the_wheel_holds_the_package_and_the_recipes_and_nothing_else(built: Built, wheel: dict[str, bytes], project):
    recipes = [name for name in built.of("configs") if name.endswith(".yaml")]
    assert recipes
    assert "carvana/py.typed" in built.of("carvana")
    info = f"carvana-{project['version']}.dist-info"
    expected = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    expected |= {*built.of("carvana"), *(f"carvana/{name}" for name in recipes)}
    assert set(wheel) == expected
    for name in built.of("carvana"):
        assert wheel[name] == (built.tree / name).read_bytes()
    for name in recipes:
        assert wheel[f"carvana/{name}"] == (built.tree / name).read_bytes()


def test_the_wheel_is_small_and_holds_code_and_recipes_alone(built: Built, wheel: dict[str, bytes]):
    assert built.wheel.name.endswith("-py3-none-any.whl")
    assert built.wheel.stat().st_size <= LARGEST_WHEEL
    ours = {name: data for name, data in wheel.items() if ".dist-info/" not in name}
    assert {name for name in ours if PurePosixPath(name).suffix not in KINDS} <= {"carvana/py.typed"}
    assert {name: len(data) for name, data in ours.items() if len(data) > LARGEST_FILE} == {}
    assert [name for name, data in ours.items() if b"\0" in data] == []


def test_the_sdist_holds_the_whole_project_and_nothing_that_lies_about(built: Built):
    found = {path.relative_to(built.unpacked).as_posix() for path in built.unpacked.rglob("*") if path.is_file()}
    expected = {name for folder in FOLDERS for name in built.of(folder)} | {*FILES, ".gitignore", "PKG-INFO"}
    assert found == expected
    for name in built.sources:
        assert (built.unpacked / name).read_bytes() == (built.tree / name).read_bytes()
    for folder in FOLDERS:
        assert built.of(folder), folder


def test_the_sdist_gives_the_same_wheel(built: Built, wheel: dict[str, bytes]):
    assert built.wheel_again.name == built.wheel.name
    assert unzipped(built.wheel_again) == wheel


def test_the_metadata_tell_who_may_use_it_and_where(metadata: Message, wheel: dict[str, bytes], project):
    assert metadata["Name"] == "carvana"
    assert metadata["Version"] == project["version"] == importlib.import_module("carvana").__version__
    assert metadata["Summary"] == project["description"]
    assert metadata["Requires-Python"] == project["requires-python"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert of_info(wheel, "LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert of_info(wheel, "LICENSE").startswith(b"MIT License")
    assert set(metadata.get_all("Classifier")) == set(project["classifiers"]) <= set(classifiers)
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = metadata.get_payload(decode=True)
    assert readme.decode().strip() == (ROOT / "README.md").read_text().strip()


def test_the_metadata_ask_for_what_the_project_names(metadata: Message, project):
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = {canonicalize_name(one.name): str(one.specifier) for one in wanted if one.marker is None}
    named = [Requirement(text) for text in project["dependencies"]]
    assert always == {canonicalize_name(one.name): str(one.specifier) for one in named}
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    # What was tried is said; an upper bound breaks somebody's environment.
    assert all(re.fullmatch(r">=[\d.]+", versions) for versions in always.values())


def test_the_entry_points_are_there_and_can_be_called(wheel: dict[str, bytes]):
    found = configparser.ConfigParser(delimiters="=")
    found.read_string(of_info(wheel, "entry_points.txt").decode())
    assert {section: dict(found[section]) for section in found.sections()} == {
        "console_scripts": {"carvana": "carvana.cli:main"},
        "carvana.plugins": {"carvana": "carvana.builtins:register"},
    }
    for section in found.sections():
        for target in found[section].values():
            module, _, name = target.partition(":")
            assert f"{module.replace('.', '/')}.py" in wheel or f"{module.replace('.', '/')}/__init__.py" in wheel
            assert callable(getattr(importlib.import_module(module), name))


def test_no_module_needs_a_distribution_that_is_not_asked_for(wheel: dict[str, bytes], metadata: Message):
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = {canonicalize_name(one.name) for one in wanted if one.marker is None}
    extras = set(metadata.get_all("Provides-Extra")) - {"test"}
    optional = {
        canonicalize_name(one.name)
        for one in wanted
        if one.marker is not None and any(one.marker.evaluate({"extra": extra}) for extra in extras)
    }
    assert {"onnx", "tensorboard"} <= optional
    missing, used = [], set()
    for path, data in wheel.items():
        if not path.endswith(".py"):
            continue
        excused = {module for folder, modules in THERE_ALREADY.items() if path.startswith(folder) for module in modules}
        for module, at_import in imports(ast.parse(data)):
            name = canonicalize_name(DISTRIBUTIONS.get(module, module))
            used.add(name)
            known = always if at_import else always | optional
            if module not in excused | sys.stdlib_module_names | {"carvana"} and name not in known:
                missing.append(f"{path} imports {module}{'' if at_import else ' in a function'}")
    assert missing == []
    # And the other way round. torchvision is there for smp and timm, in the version that fits torch.
    assert always - used == {"torchvision"}


def imports(tree: ast.AST, at_import: bool = True) -> Iterator[tuple[str, bool]]:
    """Top-level names that a module imports, and whether importing the module is enough for it to happen."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from of_all(node.orelse, at_import)
        elif isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from () if node.level else [((node.module or "").partition(".")[0], at_import)]
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, at_import and not inside)


def of_all(nodes: Iterable[ast.AST], at_import: bool) -> Iterator[tuple[str, bool]]:
    for node in nodes:
        yield from imports(ast.Module(body=[node], type_ignores=[]), at_import)


def test_the_imports_of_a_module_are_told_from_those_of_its_functions():
    source = """
import a.b, c as d
from e.f import g
from . import h
if TYPE_CHECKING:
    import typed
else:
    import untyped
try:
    import tried
except ImportError:
    import other
class C:
    import inner
    def method(self):
        import lazy
        def deeper(): from lazier import x
"""
    found = dict(imports(ast.parse(source)))
    assert {name for name, at_import in found.items() if at_import} == {*"ace", "untyped", "tried", "other", "inner"}
    assert {name for name, at_import in found.items() if not at_import} == {"lazy", "lazier"}
