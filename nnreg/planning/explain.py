"""Plans as a table (what was decided, its value and the reason), and the rules as the table of the documentation."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnreg.files import write_text
from nnreg.planning.dense_prediction import geometry as geometry  # registers its rules, as the next line does
from nnreg.planning.dense_prediction import settings as settings
from nnreg.planning.plans import LossTerm, Normalization, Plans
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.planning.registration.rules import RULES
from nnreg.planning.registration.tuning import describe

Row = tuple[str, str, str]
DENSE_RULES = ("nnreg.planning.dense_prediction.geometry", "nnreg.planning.dense_prediction.settings")
MARKS = ("<!-- rules: made from their docstrings by make docs -->", "<!-- end of rules -->")


def explain(plans: Plans) -> list[Row]:
    """(decision, value, because) of every value that has a reason: of the dataset, of optimising, then of each configuration, dotted as in the file."""
    rows = list(_rows(plans, plans.because, ""))
    if isinstance(plans, RegistrationPlans):
        rows += _rows(plans.optimisation, plans.optimisation.because, "optimisation.")
    if isinstance(plans, RegistrationPlans) and plans.tuning is not None:
        rows += [(f"tuning.{score.name}", f"rank {readable(score.rank)}", describe(score, plans.tuning.measure)) for score in plans.tuning.scores]
    for name, configuration in plans.configurations.items():
        rows += _rows(configuration, configuration.because, f"{name}.")
    return rows


def rules_table() -> str:
    """The rules as a Markdown table: what each decides, in the words of its docstring."""
    for module in DENSE_RULES:
        importlib.import_module(module)
    # those of registration first, then by file and line: the same table whichever were imported first
    names = sorted(RULES, key=lambda name: (name.startswith("dense_"), RULES[name].__module__, inspect.unwrap(RULES[name]).__code__.co_firstlineno))
    rows = [f"| `{name}` | {' '.join((RULES[name].__doc__ or '').replace('``', '`').split())} |" for name in names]
    return "\n".join(["| rule | decides |", "|---|---|", *rows])


def update_page(path: Path | str) -> None:
    """Write the table of the rules between its marks in a Markdown page (``make docs``)."""
    page = Path(path).read_text(encoding="utf-8")
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    write_text(path, f"{before}{MARKS[0]}\n{rules_table()}\n{MARKS[1]}{after}")


def _rows(owner: Any, because: Mapping[str, str], prefix: str) -> Iterator[Row]:
    for key, reason in because.items():
        yield prefix + key, readable(_value(owner, key)), reason


def _value(owner: Any, key: str) -> Any:
    """What a dotted key names; None for a decision that led to others and has no field of its own."""
    found = owner
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, (list, tuple)) and part.isdigit():
            found = found[int(part)]
        else:
            found = getattr(found, part, None)
        if found is None:
            return None
    return found


def readable(value: Any) -> str:
    """A value in a few words.

    Examples
    --------
    >>> readable((160, 192, 144)), readable(None), readable((LossTerm("lncc", 1.0, {"window": [9, 9, 9]}),))
    ('160 x 192 x 144', '-', 'lncc (window 9 x 9 x 9)')
    """
    if value is None:
        return "-"
    if isinstance(value, LossTerm):
        return (f"{value.weight:g} " if value.weight != 1 else "") + value.name + _arguments(value.kwargs)
    if isinstance(value, Normalization):
        return value.scheme + _arguments(value.kwargs)
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    if isinstance(value, Mapping):
        return ", ".join(value) or "none"
    if isinstance(value, (list, tuple)):
        return _sequence(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sequence(value: Sequence[Any]) -> str:
    if any(isinstance(item, (LossTerm, Normalization)) for item in value):
        return " + ".join(readable(item) for item in value)
    separator = ", " if any(isinstance(item, (list, tuple)) for item in value) else " x "
    return separator.join(readable(item) for item in value) or "none"


def _arguments(kwargs: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key} {readable(item)}' for key, item in kwargs.items())})" if kwargs else ""
