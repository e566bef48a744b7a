"""A pair of cases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A fixed and a moving case.

    Examples
    --------
    >>> Pair("a", "b").name
    'a__b'
    """

    fixed: str
    moving: str

    @property
    def name(self) -> str:
        """``FIXED__MOVING``, as files and folders of the pair are called."""
        return f"{self.fixed}__{self.moving}"

    @property
    def swapped(self) -> Pair:
        """The pair with its roles swapped."""
        return Pair(self.moving, self.fixed)
