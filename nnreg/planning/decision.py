"""A rule is a small pure function that decides one value and says why."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from nnreg.errors import NnRegError, did_you_mean
from nnreg.registry import Registry, entry_point_names, installed, one_line
from nnreg.task import imported, usable_tasks

ENTRY_POINTS = "nnreg.rules"
T = TypeVar("T")
RuleFunction = TypeVar("RuleFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Decision(Generic[T]):
    """A value and the reason for it: the rule and the measured numbers that led to it."""

    value: T
    because: str


RULES: Registry[Callable[..., Decision[Any]]] = Registry("rule")
"""Every rule by the name of what it decides, and so the list of all defaults. A rule is looked up by its name each time it is asked."""


def rule(name: str, *, replaces: bool = False) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule under the name of what it decides.

    Installed packages replace one of ours by an entry point of its name in the group ``nnreg.rules``, with a function of the same arguments.

    Parameters
    ----------
    name
        Of what is decided.
    replaces
        Whether the rule takes the place of the one that is registered; without it, a name that is taken is an error.
    """

    def add(function: RuleFunction) -> RuleFunction:
        if replaces:
            RULES[name]  # an unknown name is told from a near one
            del RULES[name]
        RULES[name] = function

        @functools.wraps(function)
        def decide(*values: Any, **named: Any) -> Decision[Any]:
            return _decided(name, *values, **named)

        return cast("RuleFunction", decide)

    return add


def _decided(name: str, *values: Any, **named: Any) -> Decision[Any]:
    """What the rule in force decides."""
    if name not in entry_point_names(ENTRY_POINTS):
        return RULES[name](*values, **named)
    offered = installed("rule", ENTRY_POINTS, (name,))[name]
    decide = offered.load()
    try:
        found = decide(*values, **named)
    except NnRegError:
        raise  # as our rules tell what cannot be planned
    except Exception as error:
        raise offered.fault(f" failed ({one_line(error)}).") from error
    if not isinstance(found, Decision):
        raise offered.fault(f" returned a {type(found).__name__}, expected a Decision.")
    return found


def check_outside_rules() -> None:
    """Refuse an entry point that takes the place of no rule: without this a misspelt name would be passed over in silence.

    Raises
    ------
    ConfigurationError
        One line with the package and the nearest rule.
    """
    outside = entry_point_names(ENTRY_POINTS)
    if not outside:
        return
    for _, entry in usable_tasks():  # a rule is known once the modules of its task are imported, which few plannings need
        with contextlib.suppress(NnRegError):  # told when that task is asked for
            imported(entry.pipeline)
    for name in sorted(outside - set(RULES)):
        offered = installed("rule", ENTRY_POINTS, (name,))[name]
        raise offered.fault(f" takes the place of no rule of nnReg; {did_you_mean(name, RULES)}")


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
