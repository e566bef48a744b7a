"""Names to objects: what a file or the command line may name, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
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


def load_entry_point(kind: str, entry: EntryPoint) -> Any:
    """What an installed package offers under the name of an entry point.

    Parameters
    ----------
    kind
        What it offers, in the singular, for messages: ``"network"``.
    entry
        One of ``importlib.metadata.entry_points(group=...)``.

    Raises
    ------
    ConfigurationError
        If it cannot be imported, for whatever reason: the code is not ours.
    """
    try:
        return entry.load()
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ConfigurationError(
            f"{kind} {entry.name!r}: entry point {entry.value} of {package_of(entry)} cannot be loaded ({reason}). Mend or remove its package."
        ) from error


def package_of(entry: EntryPoint) -> str:
    """Name of the installed package that an entry point comes from."""
    return entry.dist.name if entry.dist is not None else "an unnamed package"
