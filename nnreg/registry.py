"""Names to objects: what a file or the command line may name, and nothing else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Container, Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nnreg.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """A dictionary whose missing key is a :class:`ConfigurationError` that names the nearest valid one.

    Parameters
    ----------
    kind
        What is registered, in the singular, for messages: ``"loss"``.
    replaceable
        Whether a name that is taken may be given to another entry; `replaced` then keeps the first one. Else that is an error.

    Examples
    --------
    >>> losses = Registry[type]("loss")
    >>> @losses.register("mse")
    ... class MSE: ...
    >>> losses["mse"].__name__
    'MSE'
    """

    def __init__(self, kind: str, *, replaceable: bool = False) -> None:
        self.kind, self.replaceable = kind, replaceable
        self._entries: dict[str, T] = {}
        self.replaced: dict[str, T] = {}

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
        if self.replaced.get(name) is entry:
            del self.replaced[name]
        elif name in self._entries and self._entries[name] is not entry and self.replaceable:
            self.replaced.setdefault(name, self._entries[name])
        elif name in self._entries and self._entries[name] is not entry:
            raise ConfigurationError(f"{self.kind} {name!r} is registered already. Choose another name.")
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class Installed:
    """What an installed package offers under an entry point, not imported yet."""

    kind: str
    entry: EntryPoint

    @property
    def package(self) -> str:
        """The package that offers it, as pip calls it."""
        return package_of(self.entry)

    def load(self) -> Any:
        """Import it.

        Raises
        ------
        ConfigurationError
            If that fails, for whatever reason; the package is named.
        """
        try:
            return self.entry.load()
        except Exception as error:  # the code of others fails in many ways
            raise self.fault(f": entry point {self.entry.value} cannot be loaded ({one_line(error)}).") from error

    def fault(self, what: str) -> ConfigurationError:
        """The error that says what is wrong with it: `what` goes on after the name of the package."""
        return ConfigurationError(f"{self.kind} {self.entry.name!r} of the package {self.package}{what} Mend or remove the package.")


def one_line(error: Exception) -> str:
    r"""Kind and message of an error of others' code, in one line.

    Examples
    --------
    >>> one_line(RuntimeError("no\nlicence"))
    'RuntimeError: no licence'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def installed(kind: str, group: str, names: Container[str] | None = None) -> dict[str, Installed]:
    """Entry points of installed packages by name, all or those of `names`; `kind` is what they are, in the singular, for messages.

    Raises
    ------
    ConfigurationError
        If two packages give one name.
    """
    found: dict[str, Installed] = {}
    for entry in entry_points_of(group):
        if names is not None and entry.name not in names:
            continue
        other = found.setdefault(entry.name, Installed(kind, entry))
        if other.entry.value != entry.value or other.package != package_of(entry):
            raise ConfigurationError(f"{kind} {entry.name!r} is registered by two packages, {other.package} and {package_of(entry)}. Remove one of them.")
    return found


def package_of(entry: EntryPoint) -> str:
    """The package that an entry point comes from, as pip calls it."""
    return entry.module if entry.dist is None else str(entry.dist.name)


def entry_point_names(group: str) -> frozenset[str]:
    """Names that installed packages give in an entry point group; nothing is imported."""
    return frozenset(entry.name for entry in entry_points_of(group))


def entry_points_of(group: str) -> tuple[EntryPoint, ...]:
    """What installed packages give in an entry point group; nothing is imported."""
    return _all_entry_points(tuple(sys.path)).get(group, ())


@functools.lru_cache(maxsize=4)
def _all_entry_points(path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """By group. Remembered as long as packages are looked for in the same places: 30 ms go into reading the folder of each."""
    from importlib.metadata import entry_points

    every = entry_points()
    return {group: tuple(every.select(group=group)) for group in every.groups}


def load_entry_point(kind: str, group: str, name: str, *, taken: Container[str] = ()) -> Any:
    """What an installed package gives as `name`; `kind` is what it is, in the singular, for messages.

    Raises
    ------
    ConfigurationError
        If two packages give it, if it is among the names `taken` by nnReg, or if it cannot be imported: one line with the package and what to do.
    """
    found = installed(kind, group, (name,))[name]
    if name in taken:
        raise ConfigurationError(f"{kind} {name!r} of the package {found.package}: nnReg has that name already. Rename the entry point, or remove the package.")
    return found.load()
