"""Names to objects: what a file or the command line may name, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
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
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise ConfigurationError(
                f"{self.kind} {self.entry.name!r} of the package {self.package}: entry point {self.entry.value} cannot be loaded ({reason}). "
                "Mend or remove the package."
            ) from error


def installed(kind: str, group: str) -> dict[str, Installed]:
    """Entry points of installed packages by name; `kind` is what they are, in the singular, for messages.

    Raises
    ------
    ConfigurationError
        If two packages give one name.
    """
    from importlib.metadata import entry_points  # 20 ms, which only those pay who look something up

    found: dict[str, Installed] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, Installed(kind, entry))
        if other.entry.value != entry.value or other.package != package_of(entry):
            raise ConfigurationError(f"{kind} {entry.name!r} is registered by two packages, {other.package} and {package_of(entry)}. Remove one of them.")
    return found


def package_of(entry: EntryPoint) -> str:
    """The package that an entry point comes from, as pip calls it."""
    return entry.module if entry.dist is None else str(entry.dist.name)
