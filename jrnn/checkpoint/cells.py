"""Cells as JSON: class names and fields."""

import dataclasses
from typing import Any

from jrnn._checks import require_model
from jrnn.checkpoint.files import CheckpointError, show

USER = "user:"  # prefix of classes that are not jrnn's: a class name has no colon


def cell_to_json(cell: Any) -> dict[str, Any]:
    """Describe a cell or layer by the name of its class and its fields.

    Args:
      cell: any cell; if jrnn does not export its class, the description is for comparison only.

    Returns:
      A value for `json.dumps`, with tuples converted to lists.

    Raises:
      TypeError: a field of one of jrnn's cells is not a number, string, tuple or cell.

    >>> import jrnn
    >>> cell_to_json(jrnn.Stack((jrnn.Embed(4),)))["cells"]
    [{'class': 'Embed', 'features': 4}]
    """
    name = type(cell).__name__
    ours = exported(name) is type(cell)
    if not dataclasses.is_dataclass(cell):
        return {"class": USER + name, "repr": show(cell)}
    values = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell) if f.init}
    fields = {f: _field_to_json(value, f"{name}.{f}" if ours else None) for f, value in values.items()}
    return {"class": name if ours else USER + name, **fields}


def _field_to_json(value: Any, where: str | None) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_field_to_json(item, where) for item in value]
    if hasattr(value, "initial_carry") or _is_part(type(value)):
        return cell_to_json(value)
    if where:
        raise TypeError(f"{where} must be a number, string, tuple or cell, got {show(value)}")
    return show(value)


def cell_from_json(spec: Any) -> Any:
    """Make a cell or layer from the description of `cell_to_json`.

    Args:
      spec: the result of `json.loads`.

    Returns:
      The cell.

    Raises:
      CheckpointError: not a description, a class that is not one of jrnn's cells, or invalid fields.

    >>> cell_from_json({"class": "GRU", "hidden": 3})
    GRU(hidden=3)
    """
    cell = _from_json(spec)
    if _is_part(type(cell)):
        raise CheckpointError(f"{show(cell)} is a part of a cell, not a cell of jrnn")
    return cell


def _from_json(spec: Any) -> Any:
    name = spec.get("class") if isinstance(spec, dict) else None
    if not isinstance(name, str):
        raise CheckpointError(f"a cell must be a class and its fields, got {show(spec)}")
    if name.startswith(USER):
        raise CheckpointError(f"{show(name[len(USER) :])} is not a cell of jrnn: pass your cell as cell=")
    kind = exported(name)
    if kind is None:
        raise CheckpointError(f"{show(name)} is not the name of a cell of jrnn")
    try:
        return kind(**{f: _field_from_json(value) for f, value in spec.items() if f != "class"})
    except CheckpointError:
        raise
    except Exception as error:  # any error that malformed fields cause in a constructor
        raise CheckpointError(f"{name} has invalid fields: {show(error)}") from error


def _field_from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_field_from_json(item) for item in value)
    return _from_json(value) if isinstance(value, dict) else value


def exported(name: str) -> Any:
    """Look up a cell, layer or part of one that jrnn exports under this name, or return None."""
    import jrnn  # here, since jrnn imports this module

    try:
        found = getattr(jrnn, name, None) or getattr(jrnn.attention, name, None)
    except ImportError:  # a name that needs a missing package does not belong to a cell
        return None
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        return None
    methods = ("init", "initial_carry", "step" if hasattr(found, "step") else "apply")
    is_cell = all(callable(getattr(found, method, None)) for method in methods)
    return found if is_cell or _is_part(found) else None


def _is_part(kind: Any) -> bool:
    """True for classes that cells may hold besides cells: forms of weights, scores, bridges, wirings."""
    if not dataclasses.is_dataclass(kind) or hasattr(kind, "initial_carry"):
        return False
    return any(callable(getattr(kind, method, None)) for method in ("weight", "weights", "start", "masks"))


def agreed_cell(spec: dict[str, Any], given: Any) -> Any:
    """Return the stored cell, or the given one after a comparison of all fields."""
    if given is None:
        return cell_from_json(spec)
    require_model("cell", given)
    stored, got = _values("cell", spec), _values("cell", cell_to_json(given))
    for name in stored | got:
        if name not in stored or name not in got or stored[name] != got[name]:
            here, there = (show(values[name]) if name in values else "absent" for values in (stored, got))
            raise CheckpointError(f"{name} is {here} in the checkpoint, {there} in the given cell")
    return given


def _values(where: str, spec: Any) -> dict[str, Any]:
    """The values of a description by path, with the lengths of lists."""
    if isinstance(spec, dict):
        return {k: v for key, value in spec.items() for k, v in _values(f"{where}.{key}", value).items()}
    if isinstance(spec, list):
        items = {k: v for i, value in enumerate(spec) for k, v in _values(f"{where}[{i}]", value).items()}
        return {f"len({where})": len(spec), **items}
    return {where: spec}
