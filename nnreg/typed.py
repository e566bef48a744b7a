"""Frozen dataclasses from JSON, and back: field by field, with an error that names the key."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union

from nnreg.errors import NnRegError, did_you_mean
from nnreg.files import plain

T = TypeVar("T")
FORMERLY = "formerly"
"""Key of a field's metadata: the name that files written before still have."""


def from_mapping(cls: type[T], content: Any, *, where: str, error: type[NnRegError]) -> T:
    """Build the dataclass `cls` from parsed JSON.

    Lists become tuples where the field says so, nested dataclasses are built the same way, a missing key takes the field's default.
    A field that is no argument of the constructor (``init=False``) belongs to the class, not to the file: it is neither read nor written.

    Parameters
    ----------
    cls
        A dataclass whose annotations are scalars, ``tuple``, ``dict``, ``| None``, ``Any`` or other dataclasses.
    content
        What ``json.loads`` gave.
    where
        File (and key) that the content comes from; the message starts with it.
    error
        Class to raise.

    Raises
    ------
    NnRegError
        Of the class `error`: unknown key (with the nearest valid one), missing key, wrong type.
    """
    if not isinstance(content, Mapping):
        raise error(f"{where}: expected an object with keys, found {_describe(content)}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    former = {field.metadata[FORMERLY]: name for name, field in fields.items() if FORMERLY in field.metadata}
    content = {former.get(key, key): value for key, value in content.items()}
    for key in content:
        if key not in fields:
            raise error(f"{where}: unknown key {key!r}; {did_you_mean(key, fields)}")
    hints = _hints(typing.cast(Any, cls))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in content:
            values[name] = _convert(content[name], hints[name], f"{where}: {name}", error)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(f"{where}: key {name!r} is missing.")
    return cls(**values)


@cache  # a fingerprint has an image of one class per case
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def to_mapping(instance: Any) -> dict[str, Any]:
    """The dataclass as JSON's own types, in the order of its fields."""
    result: dict[str, Any] = plain({field.name: _unwrap(getattr(instance, field.name)) for field in dataclasses.fields(instance) if field.init})
    return result


def _unwrap(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _unwrap(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unwrap(item) for item in value]
    return value


def _convert(value: Any, hint: Any, where: str, error: type[NnRegError]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where, error)
    if origin is typing.Literal:
        if value not in arguments:
            raise error(f"{where}: found {value!r}; {did_you_mean(value, map(str, arguments))}")
        return value
    if origin is tuple:
        return _convert_tuple(value, arguments, where, error)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected an object with keys, found {_describe(value)}.")
        return {str(key): _convert(item, arguments[1], f"{where}.{key}", error) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where=where, error=error)
    return _convert_scalar(value, hint, where, error)


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str, error: type[NnRegError]) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [argument for argument in arguments if argument is not type(None)]
    failures = []
    for choice in choices:
        try:
            return _convert(value, choice, where, error)
        except error as failure:
            failures.append(failure)
    raise failures[0]


def _convert_tuple(value: Any, arguments: tuple[Any, ...], where: str, error: type[NnRegError]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise error(f"{where}: expected a list, found {_describe(value)}.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(item, arguments[0], f"{where}[{i}]", error) for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise error(f"{where}: expected a list of {len(arguments)}, found {len(value)} values.")
    return tuple(_convert(item, argument, f"{where}[{i}]", error) for i, (item, argument) in enumerate(zip(value, arguments, strict=True)))


def _convert_scalar(value: Any, hint: Any, where: str, error: type[NnRegError]) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise error(f"{where}: expected a finite number, found {value}.")
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise error(f"{where}: expected {hint.__name__}, found {_describe(value)}.")


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
