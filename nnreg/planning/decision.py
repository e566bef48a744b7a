"""A rule is a small pure function that decides one value and says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nnreg.registry import Registry

T = TypeVar("T")
RuleFunction = TypeVar("RuleFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Decision(Generic[T]):
    """A value and the reason for it: the rule and the measured numbers that led to it."""

    value: T
    because: str


RULES: Registry[Callable[..., Decision[Any]]] = Registry("rule")
"""Every rule by the name of what it decides. Planning consults nothing else, so this is the list of all defaults."""


def rule(name: str) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule under the name of what it decides."""

    def add(function: RuleFunction) -> RuleFunction:
        RULES[name] = function
        return function

    return add


def decided_by_user(value: T, option: str) -> Decision[T]:
    """A value that was asked for instead of derived."""
    return Decision(value, f"asked for by {option}")


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    Examples
    --------
    >>> counted(1, "pair"), counted(3, "pair")
    ('1 pair', '3 pairs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def text(values: Sequence[float]) -> str:
    """Numbers per axis as people write them: ``1 x 1 x 2.5``.

    Examples
    --------
    >>> text((1.0, 0.97656, 2.5))
    '1 x 0.977 x 2.5'
    """
    return " x ".join(f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}" for value in values)
