"""JSON that must be what a dataclass or a TypedDict says: its fields and no others, of their types, in their ranges.

What a record, or a file beside one, may hold is said once, by the annotations of its class. Every reader goes through
here, so that none believes what another refuses.
"""

import json
import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict


@dataclass(frozen=True)
class Between:
    """The range of a number, its ends included."""

    low: float
    high: float = 1e9


Whole = Annotated[int, Between(0)]
Some = Annotated[int, Between(1)]
Amount = Annotated[float, Between(0)]
Share = Annotated[float, Between(0, 1)]


def text_of(path: Path) -> str:
    """The text of a regular file: a pipe or a device would be waited for. ValueError if it is none, or not UTF-8."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError("it is no regular file")
    return Path(path).read_text(encoding="utf-8")


def parsed(text: str | bytes) -> Any:
    """What a text in JSON says. ValueError if it is none: a name twice in one object, NaN, nested without an end."""
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"one of {', '.join(sorted(found))} is there twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def converted(kind: Any, value: Any) -> Any:
    """``value``, as JSON has it, as the ``kind`` that an annotation says. ValueError, which names the place, if not."""
    return _converter(kind)(value)


@cache
def _converter(kind: Any) -> Callable[[Any], Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is NotRequired:  # of a TypedDict
        return _converter(inner[0])
    if origin is Annotated:
        return partial(_in_range, _converter(inner[0]), inner[1])
    if NoneType in inner:
        return partial(_if_any, _converter(inner[0]))
    if is_dataclass(kind) or is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        needed = kind.__required_keys__ if is_typeddict(kind) else frozenset(written(kind))
        known = {name: _converter(hint) for name, hint in hints.items() if is_typeddict(kind) or name in needed}
        return partial(_fields, kind, known, needed)
    if origin is tuple and inner[-1] is not ...:
        return partial(_each_of, [_converter(item) for item in inner])
    if origin in (list, tuple):
        return partial(_items, origin, _converter(inner[0]))
    if origin in (dict, Mapping):
        return partial(_by_name, _converter(inner[1]))
    return partial(_plain, kind)


def written(kind: type) -> list[str]:
    """The fields of a dataclass that its file has."""
    return [field.name for field in fields(kind) if field.metadata.get("written", True)]


def _fields(kind: type, known: Mapping[str, Callable], needed: frozenset[str], value: Any) -> Any:
    names = _plain(dict, value).keys()
    if not needed <= names <= known.keys():
        unknown, missing = sorted(names - known.keys()), sorted(needed - names)
        raise ValueError(f"{kind.__name__}: unknown fields {unknown}, missing {missing}")
    return kind(**{name: _inside(name, known[name], item) for name, item in value.items()})


def _items(kind: type, convert: Callable, value: Any) -> Any:
    return kind(_inside(k, convert, item) for k, item in enumerate(_plain(list, value)))


def _each_of(converters: list[Callable], value: Any) -> tuple:
    if len(_plain(list, value)) != len(converters):
        raise ValueError(f"{len(value)} items, not {len(converters)}")
    return tuple(convert(item) for convert, item in zip(converters, value, strict=True))


def _by_name(convert: Callable, value: Any) -> dict[str, Any]:
    return {_plain(str, name): _inside(name, convert, item) for name, item in _plain(dict, value).items()}


def _inside(name: str | int, convert: Callable, value: Any) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _if_any(convert: Callable, value: Any) -> Any:
    return None if value is None else convert(value)


def _in_range(convert: Callable, limits: Between, value: Any) -> Any:
    if not limits.low <= convert(value) <= limits.high:
        raise ValueError(f"{value} is not from {limits.low:g} to {limits.high:g}")
    return value


def _plain(kind: type, value: Any) -> Any:
    if kind is float and type(value) is int and abs(value) < 2**53:
        return value
    if type(value) is not kind:
        raise ValueError(f"it is {type(value).__name__}, not {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise ValueError("it is not finite")
    if kind is str:
        value.encode()  # half of a pair of surrogates: no page or terminal could show it
    return value
