"""How a function, a class or an error is called, as a block of Python."""

from __future__ import annotations

import griffe

WIDTH = 88
"""Longer signatures get a line for each argument."""

_KINDS = griffe.ParameterKind


def signature(name: str, target: griffe.Object) -> str:
    """A block that shows the call, with the types and defaults of all arguments."""
    if isinstance(target, griffe.Class):
        text = _class(name, target)
    else:
        assert isinstance(target, griffe.Function), target
        answer = f" -> {shown(target.returns)}" if target.returns is not None else ""
        fixture = any("fixture" in str(decorator.value) for decorator in target.decorators)
        if fixture:
            text = f"@pytest.fixture\ndef {target.name}(...){answer}"
        else:
            decorators = sorted({"classmethod", "staticmethod"} & set(target.labels))
            text = "".join(f"@{decorator}\n" for decorator in decorators) + _call(name, _listed(target), answer)
    return f"```python\n{text}\n```\n"


def attribute_type(member: griffe.Object) -> str:
    """The type of an attribute or a property."""
    return shown(getattr(member, "annotation", None))


def _class(name: str, target: griffe.Class) -> str:
    names = {str(base) for base in target.bases}
    if any(base.endswith(("Error", "Interrupt", "Exception")) for base in names):
        return f"class {name}({', '.join(map(str, target.bases))})"
    if _is_model(target):
        values = [_field(member) for member in target.members.values() if _is_field(member)]
        return _call(f"class {name}", ["*", *values], "")
    built = target.all_members.get("__init__")
    built = built.final_target if isinstance(built, griffe.Alias) else built
    return _call(f"class {name}", _listed(built) if isinstance(built, griffe.Function) else [], "")


def _is_model(target: griffe.Class) -> bool:
    """Whether pydantic makes the constructor of the fields."""
    return any(str(base) in ("BaseModel", "Section") for base in target.bases)


def _is_field(member: griffe.Object | griffe.Alias) -> bool:
    return isinstance(member, griffe.Attribute) and member.annotation is not None and not member.name.startswith("_")


def _field(member: griffe.Object | griffe.Alias) -> str:
    assert isinstance(member, griffe.Attribute)
    value = member.value
    if isinstance(value, griffe.ExprCall) and str(value.function) == "Field":
        value = value.arguments[0]
    return f"{member.name}: {shown(member.annotation)}" + (f" = {_value(value)}" if value is not None else "")


def _listed(function: griffe.Function) -> list[str]:
    """The arguments as they are written, with the marks for those that go by name or by place alone."""
    listed: list[str] = []
    named = False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls") and not listed:
            continue
        stars = {_KINDS.var_positional: "*", _KINDS.var_keyword: "**"}.get(parameter.kind, "")
        if parameter.kind is _KINDS.keyword_only and not named:
            listed.append("*")
        named = named or parameter.kind in (_KINDS.keyword_only, _KINDS.var_positional)
        text = f"{stars}{parameter.name}"
        text += f": {shown(parameter.annotation)}" if parameter.annotation is not None else ""
        if parameter.default is not None and not stars:
            text += f" = {_value(parameter.default)}" if parameter.annotation is not None else f"={parameter.default}"
        listed.append(text)
    return listed


def shown(hint: str | griffe.Expr | None) -> str:
    """A type, with what the package's own names for types stand for."""
    if isinstance(hint, griffe.ExprSubscript) and str(hint.left) == "Annotated":
        hint = hint.slice.elements[0] if isinstance(hint.slice, griffe.ExprTuple) else hint.slice
    if not isinstance(hint, griffe.Expr):
        return str(hint or "")
    return "".join(_meant(part) for part in hint.iterate(flat=True))


def _meant(part: str | griffe.Expr) -> str:
    value = _constant(part)
    return str(part) if value is None else shown(value)


def _constant(name: str | griffe.Expr) -> str | griffe.Expr | None:
    """What the package gives a name to: a constant's or a type's own words."""
    if not isinstance(name, griffe.ExprName) or not isinstance(name.parent, griffe.Object):
        return None
    path = name.canonical_path
    if not path.startswith("carvana."):
        return None
    found = name.parent.modules_collection[path]
    found = found.final_target if isinstance(found, griffe.Alias) else found
    return found.value if isinstance(found, griffe.Attribute) and "property" not in found.labels else None


def _value(default: str | griffe.Expr) -> str:
    """A default; where it is a constant of the package, the constant's value."""
    value = _constant(default)
    return str(default if value is None else value)


def _call(name: str, listed: list[str], answer: str) -> str:
    line = f"{name}({', '.join(listed)}){answer}"
    if len(line) <= WIDTH or not listed:
        return line
    return "\n".join([f"{name}(", *(f"    {text}," if text != "*" else "    *," for text in listed), f"){answer}"])
