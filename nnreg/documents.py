"""JSON and YAML from files of strangers: no code, no key twice, no depth that ends the interpreter, no aliases without end."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnreg.errors import NnRegError

DEEPEST = 100  # levels of lists and mappings: ours have at most ten
MOST_PARTS = 2_000_000  # lists and mappings, with aliases written out
MOST_ALIASES = 50
# what content of a wrong type or size raises in code that expects the right one
ODD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError, MemoryError, EOFError, struct.error)


def parse_json(text: str, where: str, error: type[NnRegError] = NnRegError) -> Any:
    """The content of a JSON text.

    Raises
    ------
    NnRegError
        Of the given class, with `where` in front: no JSON, a key twice, too deep, a number of thousands of digits, NaN, infinity.
    """
    return _parsed(lambda: json.loads(text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite), "JSON", where, error)


def parse_yaml(text: str, where: str, error: type[NnRegError] = NnRegError) -> Any:
    """The content of a YAML text, as plain values.

    Raises
    ------
    NnRegError
        Of the given class, with `where` in front: no YAML, a tag that would make an object, a key twice, too deep, a part that contains itself, more than
        50 aliases, NaN, infinity.
    """
    import yaml

    def load() -> Any:
        aliases = depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # one by one: what is deep takes PyYAML minutes
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if aliases > MOST_ALIASES:
                raise ValueError(f"more than {MOST_ALIASES} aliases")
            if depth > DEEPEST:
                raise ValueError(f"lists or mappings more than {DEEPEST} deep")
        return yaml.load(text, Loader=_loader())

    return _parsed(load, "YAML", where, error)


@contextlib.contextmanager
def understood(where: str | Path, error: type[NnRegError], remedy: str = "Mend it or make it again.") -> Iterator[None]:
    """Around the code that takes a file's content apart: what is missing in it, or of another type, is told in one line.

    Raises
    ------
    NnRegError
        Of the given class, with `where` in front.
    """
    try:
        yield
    except NnRegError:
        raise
    except KeyError as missing:
        raise error(f"{where}: {str(missing)[:100]} is missing. {remedy}") from missing
    except ODD as problem:
        reason = (" ".join(str(problem).split()) or type(problem).__name__)[:200]
        raise error(f"{where}: holds what cannot be understood ({reason}). {remedy}") from problem


def _parsed(load: Callable[[], Any], kind: str, where: str, error: type[NnRegError]) -> Any:
    try:
        value = load()
        if _endless(value):
            raise ValueError(f"lists or mappings more than {DEEPEST} deep, or in one another without end")
    except (ValueError, RecursionError) as problem:
        reason = "lists or mappings in one another without end" if isinstance(problem, RecursionError) else str(problem).splitlines()[0]
        raise error(f"{where}: is not valid {kind} ({reason}). Mend it or make it again.") from problem
    except Exception as problem:
        if type(problem).__module__.partition(".")[0] != "yaml":
            raise
        raise error(f"{where}: is not valid {kind} ({' '.join(str(problem).split())[:200]}). Mend it or make it again.") from problem
    return value


def _finite(text: str) -> float:
    """Python writes and reads NaN and Infinity, which are no JSON, and makes infinity of numbers that are too large."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


@lru_cache(maxsize=1)
def _loader() -> Any:
    """PyYAML's SafeLoader, which takes the last of two equal keys, with that refused."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            for name in names:
                if isinstance(name, (str, int, float, bool)) and names.count(name) > 1:
                    raise ValueError(f"the key {name!r} is there twice")
            return super().construct_mapping(node, deep)

        def construct_yaml_float(self, node: Any) -> float:
            value = super().construct_yaml_float(node)
            if not math.isfinite(value):
                raise ValueError(f"{node.value[:40]} is no finite number")
            return value

    Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)
    return Loader


def _endless(value: Any) -> bool:
    """Whether a value is deeper than DEEPEST, or has more than MOST_PARTS lists and mappings."""
    level: list[Any] = [[value]]
    parts = 0
    for _ in range(DEEPEST + 1):
        level = [child for part in level for child in (part.values() if isinstance(part, dict) else part) if isinstance(child, (dict, list))]
        parts += len(level)
        if not level or parts > MOST_PARTS:
            return bool(level)
    return True


__all__ = ["ODD", "parse_json", "parse_yaml", "understood"]
