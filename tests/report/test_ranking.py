"""The order of the pairs in a report."""

from __future__ import annotations

from pathlib import Path

from nnreg.report.folder import Item
from nnreg.report.ranking import ranked


def item(name: str, dice: float | None, probability: float, before: float = 0.0) -> Item:
    figures = {} if dice is None else {"dice_aligned": before, "dice_after": dice}
    return Item(name=name, fixed=name, folder=Path(name), figures=figures, record={"failure_probability": probability})


def names(*items: Item) -> list[str]:
    return [one.item.name for one in ranked(items, {}, two_contrasts=True)]


def test_dice_decides_among_pairs_that_likely_succeeded() -> None:
    assert names(item("a", 0.7, 0.012), item("b", 0.6, 0.008), item("c", 0.5, 0.010)) == ["c", "b", "a"]


def test_likely_failures_come_first_then_what_is_worse_than_before() -> None:
    assert names(item("sound", 0.3, 0.1), item("worse", 0.5, 0.1, before=0.6), item("failed", 0.6, 0.9), item("failed_too", 0.4, 0.5)) == [
        "failed_too",
        "failed",
        "worse",
        "sound",
    ]


def test_without_a_figure_the_probability_of_failure_decides() -> None:
    assert names(item("a", None, 0.01), item("b", None, 0.2)) == ["b", "a"]
