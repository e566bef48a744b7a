"""Many pairs: means, per-label means, robustness, and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnreg.evaluation.additional import ADDITIONAL, described, keys_of
from nnreg.evaluation.registration.pair import finite_mean
from nnreg.files import write_json
from nnreg.metrics.additional import STAGES

SCHEMA_VERSION = 1
WORST_SHARE = 0.3
# where more is better; every other figure is an error, of which less is better
HIGHER_IS_BETTER = ("dice", "ncc")

ROWS = (
    ("Dice", "dice", "{:.4f}"),
    ("HD95 (mm)", "hd95_mm", "{:.3f}"),
    ("surface distance (mm)", "asd_mm", "{:.3f}"),
    ("TRE (mm)", "tre_mm", "{:.3f}"),
    ("TRE, median (mm)", "tre_median_mm", "{:.3f}"),
    ("end-point error (voxels)", "epe", "{:.3f}"),
    ("end-point error (mm)", "epe_mm", "{:.3f}"),
    ("end-point error in labels (voxels)", "epe_labels", "{:.3f}"),
    ("NCC", "ncc", "{:.4f}"),
)
FIELD_ROWS = (
    ("SDlogJ", "sdlogj", "{:.4f}"),
    ("folded voxels", "folding_count", "{:.1f}"),
    ("folding (%)", "folding_percent", "{:.4f}"),
    ("non-diffeomorphic volume (%)", "ndv_percent", "{:.5f}"),
    ("squared gradient", "grad_l2", "{:.4f}"),
    ("seconds per pair", "seconds", "{:.1f}"),
)


def summarise(pair_results: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Join the results of all pairs.

    Parameters
    ----------
    pair_results
        What :func:`nnreg.evaluation.evaluate_pair` gave, each with ``name``, ``fixed``, ``moving`` added.
    meta
        Where the results come from (dataset, model); stands at the top.

    Returns
    -------
    dict
        ``mean`` and ``worst_30_percent``: name to number over pairs. ``labels``: label to its means over pairs. ``counts``.
        ``pairs``: what came in. A figure is the mean over the labels of a pair, then over pairs; a missing one (NaN) is in no mean.
        ``worst_30_percent`` is the mean of the worst 30 % of pairs (at least one), each figure with its own worst pairs.
        ``additional_metrics``, where there are any: name to what is known of them.
    """
    pairs = sorted((dict(result) for result in pair_results), key=lambda result: str(result["name"]))
    names = list(dict.fromkeys(name for pair in pairs for name in pair["metrics"]))
    columns = {name: [pair["metrics"].get(name, math.nan) for pair in pairs] for name in names}
    seconds = [pair["seconds"] for pair in pairs if isinstance(pair.get("seconds"), (int, float))]
    labels = _label_summary(pairs)
    more = described(names)
    higher = {key: known["larger_is_better"] for name, known in more.items() for key in keys_of(name)}
    return {
        "schema_version": SCHEMA_VERSION,
        **meta,
        "mean": {name: finite_mean(values) for name, values in columns.items()} | ({"seconds": finite_mean(seconds)} if seconds else {}),
        "worst_30_percent": {name: worst_mean(name, values, higher.get(name)) for name, values in columns.items()},
        "counts": {"pairs": len(pairs), "labels": len(labels), "labels_lost": sum(len(pair["labels_lost"]) for pair in pairs)},
        "labels": labels,
        "pairs": pairs,
    } | ({ADDITIONAL: more} if more else {})


def worst_mean(name: str, values: Sequence[float], higher_is_better: bool | None = None) -> float:
    """Mean of the worst 30 % of the finite values, at least one; `name` says whether low or high is bad, if `higher_is_better` does not."""
    if higher_is_better is None:
        higher_is_better = name.rpartition("_")[0] in HIGHER_IS_BETTER
    ordered = sorted((value for value in values if math.isfinite(value)), reverse=not higher_is_better)
    return finite_mean(ordered[: max(1, math.ceil(WORST_SHARE * len(ordered) - 1e-9))])


def _label_summary(pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean of every figure of every label over the pairs that have it."""
    found = sorted({label for pair in pairs for label in pair["labels"]}, key=int)
    result: dict[str, dict[str, Any]] = {}
    for label in found:
        scores = [pair["labels"][label] for pair in pairs if label in pair["labels"]]
        means = {name: finite_mean([score.get(name, math.nan) for score in scores]) for name in scores[0]}
        result[label] = {**means, "pairs": sum(math.isfinite(score["dice_after"]) for score in scores)}
    return result


def write_summary(path: Path | str, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``, whole or not at all; NaN and infinity become null."""
    write_json(path, summary)


def table(summary: Mapping[str, Any]) -> str:
    """The means as text: one line per figure, header, aligned and after; then the figures of the field."""
    mean, worst = summary["mean"], summary["worst_30_percent"]
    lines = [f"{summary['counts']['pairs']} pairs, {summary['counts']['labels']} labels", ""]
    heads = ("", *STAGES, "worst 30 % after")
    rows: list[tuple[str, ...]] = [heads]
    more = [(name, name, "{:.4g}") for name in summary.get(ADDITIONAL, {})]
    for head, name, form in (*ROWS, *more):
        title = head.replace("(mm)", f"({summary.get('unit', 'mm')})")
        if any(f"{name}_{stage}" in mean for stage in STAGES):
            values = [mean.get(f"{name}_{stage}") for stage in STAGES] + [worst.get(f"{name}_after")]
            rows.append((title, *(_number(value, form) for value in values)))
    for title, name, form in (*FIELD_ROWS, *more):
        if name in mean:
            rows.append((title, "", "", _number(mean[name], form), _number(worst[name], form) if name in worst else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines += [
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
    lost = summary["counts"]["labels_lost"]
    if lost:
        lines += ["", f"{lost} times a label had nothing left after warping: its Dice is 0, its surface distance is in no mean."]
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else form.format(value)
