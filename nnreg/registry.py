"""Names to objects: what a file or the command line may name, and nothing else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Container, Iterator, MutableMapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from nnreg.errors import ConfigurationError, did_you_mean

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """A dictionary whose missing key is a :class:`ConfigurationError` that names the nearest valid one.

    Parameters
    ----------
    kind
        What is registered, in the singular, for messages: ``"loss"``.

    Examples
    --------
    >>> losses = Registry[type]("loss")
    >>> @losses.register("mse")
    ... class MSE: ...
    >>> losses["mse"].__name__
    'MSE'
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator that registers under one or several names."""

        def add(entry: T) -> T:
            for name in names:
                self[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigurationError(f"{self.kind} {name!r} is unknown; {did_you_mean(name, self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __setitem__(self, name: str, entry: T) -> None:
        if name in self._entries and self._entries[name] is not entry:
            raise ConfigurationError(f"{self.kind} {name!r} is registered already. Choose another name.")
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def entry_point_names(group: str) -> set[str]:
    """Names that installed packages give in an entry point group; nothing is imported."""
    return set(_names(group, tuple(sys.path)))


@functools.lru_cache
def _names(group: str, path: tuple[str, ...]) -> frozenset[str]:
    """Remembered as long as packages are looked for in the same places: a plan asks for each of its rules."""
    return frozenset(entry.name for entry in entry_points(group=group))


def load_entry_point(group: str, name: str, *, taken: Container[str] = ()) -> Any:
    """What an installed package gives as `name`.

    Raises
    ------
    ConfigurationError
        If two packages give it, if it is among the names `taken` by nnReg, or if it cannot be imported: one line with the package and what to do.
    """
    found = [*entry_points(group=group, name=name)]
    packages = sorted(entry.dist.name if entry.dist is not None else "an unknown package" for entry in found)
    where = f"entry point {name!r} in {group} of {' and '.join(packages)}"
    if len(found) > 1:
        raise ConfigurationError(f"{where}: {len(found)} packages give one name. Uninstall all but one of them.")
    if not found:
        raise ConfigurationError(f"entry point {name!r} in {group}: no installed package gives it. Install the package that does.")
    if name in taken:
        raise ConfigurationError(f"{where}: nnReg has that name already. Rename the entry point, or uninstall the package.")
    try:
        return found[0].load()
    except Exception as error:  # whatever a package raises while it is imported
        told = " ".join(str(error).split())
        raise ConfigurationError(f"{where}: {found[0].value} cannot be imported ({type(error).__name__}: {told}). Mend or uninstall the package.") from error


def load_entry_points(group: str) -> dict[str, Any]:
    """Everything that installed packages give in a group, by name; errors as :func:`load_entry_point` has them."""
    return {name: load_entry_point(group, name) for name in sorted(entry_point_names(group))}
