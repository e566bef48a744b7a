"""The texts and tables of a report, from what a results folder holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from nnreg.evaluation.summary import FIELD_ROWS, ROWS
from nnreg.metrics.additional import STAGES
from nnreg.report.charts import curves, distributions
from nnreg.report.folder import Results
from nnreg.report.ranking import MAIN_FIGURES, Ranked, before_and_after, is_worse

STAGE_NAMES = {"header": "by the headers", "aligned": "linear alignment", "after": "deformed"}
MOST_ROWS = 40  # of a chart: the labels with the lowest Dice
PANELS = (
    ("Loss", ("train_loss", "val_loss")),
    ("Dice of the validation pairs", ("val_dice",)),
    ("Similarity of the validation pairs", ("val_ncc",)),
    ("Overlap of labels", ("val_iou", "val_precision", "val_recall")),
    ("Folding, % of voxels", ("val_folding_percent",)),
    ("Learning rate", ("lr",)),
    ("Seconds per epoch", ("epoch_seconds",)),
)


def number(value: Any, form: str = "{:.4g}") -> str:
    """A figure as text, "–" where there is none."""
    return form.format(value) if isinstance(value, (int, float)) and math.isfinite(value) else "–"


def cards(results: Results, order: Sequence[Ranked]) -> list[dict[str, str]]:
    """The few figures that sum it up: median over the pairs before and after."""
    found = []
    for name, title, more_is_better in MAIN_FIGURES:
        values = [before_and_after(one.figures, name) for one in order]
        after = [value for _, value in values if value is not None]
        before = [value for value, _ in values if value is not None]
        if after:
            better = bool(before) and (median(after) - median(before)) * (1 if more_is_better else -1) >= 0
            found.append(
                {
                    "title": {"tre_mm": f"Landmark error, {results.unit}"}.get(name, title[0].upper() + title[1:]),
                    "before": number(median(before), "{:.3f}") if before else "",
                    "after": number(median(after), "{:.3f}"),
                    "note": ("better" if better else "worse") if before else "",
                }
            )
    folding = [one.figures["folding_percent"] for one in order if "folding_percent" in one.figures]
    if folding:
        found.append({"title": "Folded voxels", "before": "", "after": f"{median(folding):.2g} %", "note": ""})
    seconds = [one.item.seconds for one in order if one.item.seconds is not None]
    if seconds:
        found.append({"title": f"Seconds per {'pair' if results.registers else 'case'}", "before": "", "after": number(median(seconds), "{:.3g}"), "note": ""})
    return found


def figure_columns(order: Sequence[Ranked], unit: str = "mm") -> list[dict[str, Any]]:
    """Columns of the table of pairs: those that some pair has."""
    columns = []
    for name, title, more_is_better in MAIN_FIGURES:
        if any(before_and_after(one.figures, name)[1] is not None for one in order):
            columns.append(_stage_column(name, title[0].upper() + title[1:] + (f", {unit}" if name == "tre_mm" else ""), more_is_better))
    for name, title, form in (
        ("failure_probability", "Failure probability", "{:.0%}"),
        ("folding_percent", "Folding, %", "{:.3g}"),
        ("sdlogj", "SDlogJ", "{:.3f}"),
    ):
        if any(name in one.figures for one in order):
            columns.append(_plain_column(title, form, lambda one, name=name: one.figures.get(name)))
    if any(one.item.seconds is not None for one in order):
        columns.append(_plain_column("Seconds", "{:.1f}", lambda one: one.item.seconds))
    return columns


def _stage_column(name: str, title: str, more_is_better: bool) -> dict[str, Any]:
    def text(one: Ranked) -> str:
        before, after = before_and_after(one.figures, name)
        return number(after, "{:.3f}") if before is None else f"{number(before, '{:.3f}')} → {number(after, '{:.3f}')}"

    worse = partial(_worse, name=name, more_is_better=more_is_better)
    return {"title": title, "text": text, "worse": worse, "sort": lambda one: before_and_after(one.figures, name)[1]}


def _worse(one: Ranked, *, name: str, more_is_better: bool) -> bool:
    return is_worse(one.figures, name, more_is_better=more_is_better)


def _plain_column(title: str, form: str, value: Any) -> dict[str, Any]:
    return {"title": title, "text": lambda one: number(value(one), form), "worse": lambda one: False, "sort": value}


def mean_table(results: Results) -> dict[str, Any] | None:
    """Means over the pairs at every stage, and over the worst 30 %; of label maps, over the cases."""
    mean, worst = results.summary.get("mean"), results.summary.get("worst_30_percent", {})
    if not isinstance(mean, Mapping) or not results.registers:
        return None
    stages = [stage for stage in STAGES if any(f"{name}_{stage}" in mean for _, name, _ in ROWS)]
    rows = [
        [title, *(number(mean.get(f"{name}_{stage}"), form) for stage in stages), number(worst.get(f"{name}_after"), form)]
        for title, name, form in ROWS
        if any(f"{name}_{stage}" in mean for stage in stages)
    ]
    rows += [
        [title, *("" for _ in stages[1:]), number(mean[name], form), number(worst.get(name), form) if name in worst else ""]
        for title, name, form in FIELD_ROWS
        if name in mean
    ]
    return {"head": ["", *(STAGE_NAMES[stage] for stage in stages), "worst 30 % after"], "rows": rows}


def label_names(dataset: Mapping[str, Any]) -> dict[str, str]:
    """Label value, as figures are called, to its name in dataset.json."""
    labels = dataset.get("labels")
    return {str(value): str(name) for name, value in labels.items() if isinstance(value, int)} if isinstance(labels, Mapping) else {}


def _by_label(order: Sequence[Ranked], name: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in order:
        for label, figures in one.item.labels.items():
            value = figures.get(name)
            found.setdefault(label, [])
            if isinstance(value, (int, float)) and math.isfinite(value):
                found[label].append(float(value))
    return found


def _before(order: Sequence[Ranked]) -> dict[str, list[float]]:
    aligned, header = _by_label(order, "dice_aligned"), _by_label(order, "dice_header")
    return {label: values or header.get(label, []) for label, values in aligned.items()}


def label_table(results: Results, order: Sequence[Ranked], names: Mapping[str, str]) -> dict[str, list[Any]] | None:
    """``head`` and ``rows``: per label median Dice before and after, the lowest after, surface distance, how many pairs have it; the lowest Dice first."""
    before, after = _before(order), _by_label(order, "dice_after")
    distances = _by_label(order, "hd95_mm_after") or {}
    distances = distances if any(distances.values()) else _by_label(order, "HD95")
    columns: list[tuple[str, Mapping[str, list[float]], Any, str]] = [
        ("Dice before", before, median, "{:.3f}"),
        ("Dice after" if results.registers else "Dice", after, median, "{:.3f}"),
        ("lowest", after, min, "{:.3f}"),
        (f"HD95, {results.unit}", distances, median, "{:.2f}"),
    ]
    columns = [column for column in columns if any(column[1].values())]
    if not columns:
        return None
    rows = [
        [
            _called(label, names),
            *(number(pick(found[label]) if found.get(label) else None, form) for _, found, pick, form in columns),
            str(len(after[label])),
        ]
        for label in sorted(after, key=lambda one: median(after[one]) if after[one] else math.inf)
    ]
    return {"head": ["Label", *(title for title, *_ in columns), "pairs" if results.registers else "cases"], "rows": rows}


def label_chart(results: Results, order: Sequence[Ranked], names: Mapping[str, str]) -> str:
    """Dice per label, every pair a dot."""
    before, after = _before(order), _by_label(order, "dice_after")
    known = sorted((label for label in after if after[label]), key=lambda one: median(after[one]))[:MOST_ROWS]
    rows = [(_called(label, names), before.get(label, []), after[label]) for label in known]
    title = "Dice of each label" + (f", the {MOST_ROWS} lowest of {len(after)}" if len(after) > MOST_ROWS else "")
    return distributions(rows, title=title, axis="Dice", limits=(0.0, 1.0))


def _called(label: str, names: Mapping[str, str]) -> str:
    return f"{names[label]} ({label})" if label in names else f"label {label}"


def curve_charts(results: Results) -> list[dict[str, str]]:
    """Drawings of the training, by panel."""
    found = []
    for title, names in PANELS:
        drawn = curves({name: results.curves[name] for name in names if name in results.curves}, title=title)
        if drawn:
            found.append({"title": title, "svg": drawn})
    return found


def fingerprint_rows(fingerprint: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured of the training images, in a few lines."""
    images = [one for one in (fingerprint.get("images") or {}).values() if isinstance(one, Mapping)] if isinstance(fingerprint.get("images"), Mapping) else []
    rows = [("Images measured", str(len(images)))] if images else []
    for key, title, form in (
        ("shape", "Size, voxels", "{:.0f}"),
        ("shape_after_crop", "Size of what is not empty, voxels", "{:.0f}"),
        ("spacing", "Spacing", "{:.3g}"),
    ):
        known = [one[key] for one in images if isinstance(one.get(key), list)]
        if known and len({len(one) for one in known}) == 1:
            axes = [sorted(values) for values in zip(*known, strict=True)]
            middle, low, high = (" × ".join(form.format(pick(axis)) for axis in axes) for pick in (median, min, max))
            rows.append((title, middle if low == high else f"{middle} (median; {low} to {high})"))
    turned = Counter(str(one["orientation"]) for one in images if one.get("orientation"))
    if turned:
        rows.append(("Orientation", ", ".join(f"{name} {count} times" for name, count in turned.most_common())))
    for channel, found in zip(fingerprint.get("channel_names") or [], fingerprint.get("intensities") or [], strict=False):
        if isinstance(found, Mapping) and "percentile_00_5" in found:
            rows.append(
                (f"Intensities, {channel}", f"{found['percentile_00_5']:.4g} to {found['percentile_99_5']:.4g} (0.5 to 99.5 %), mean {found['mean']:.4g}")
            )
    if fingerprint.get("pair_count"):
        rows.append(("Training pairs", str(fingerprint["pair_count"])))
    return rows


def dataset_rows(results: Results) -> list[tuple[str, str]]:
    """What dataset.json and the plans say of the images."""
    dataset, rows = results.dataset, []
    channels = dataset.get("channel_names") or results.plans.get("channel_names")
    if channels:
        rows.append(("Channels", ", ".join(map(str, channels.values() if isinstance(channels, Mapping) else channels))))
    for key, title in (
        ("name", "Name"),
        ("description", "Description"),
        ("licence", "Licence"),
        ("numTraining", "Training cases"),
        ("pairing", "Pairs"),
        ("file_ending", "Files"),
    ):
        if dataset.get(key):
            rows.append((title, str(dataset[key])))
    labels = dataset.get("labels")
    if isinstance(labels, Mapping) and labels:
        rows.append(("Labels", ", ".join(f"{name} ({value})" for name, value in labels.items())))
    rows += fingerprint_rows(results.fingerprint)
    if results.alone:
        for side in ("fixed", "moving"):
            rows.append((f"{side.capitalize()} image", ", ".join(map(str, results.record[side]))))
        guided = results.record.get("guided_by")
        if guided:
            rows.append(("Guided by", ", ".join(map(str, guided))))
    return rows


def decisions(results: Results) -> list[dict[str, Any]]:
    """Every decision with its reason, in groups."""
    groups = []
    own = results.record.get("decisions")
    if isinstance(own, list) and own:
        rows = [tuple(_in_unit(str(one.get(key, "")), results) for key in ("name", "value", "because")) for one in own]
        groups.append({"title": "This pair", "rows": rows})
    told = results.record if results.record.get("method") else results.method
    predicted = [("method", str(told["method"]), str(told.get("because", "")))] if told.get("method") else []
    groups.append({"title": "Prediction", "rows": [*predicted, *_guides(results.record)]})
    plans = results.plans
    if plans:
        groups.append({"title": "All images", "rows": list(_reasons(plans))})
        if isinstance(plans.get("optimisation"), Mapping):
            groups.append({"title": "Registration engine", "rows": list(_reasons(plans["optimisation"]))})
        groups += [{"title": f"Configuration {name}", "rows": list(_reasons(one))} for name, one in (plans.get("configurations") or {}).items()]
    return [group for group in groups if group["rows"]]


def _guides(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Labels that guided the engine, and where they come from."""
    if record.get("guides_fused_from"):
        yield "guides", f"labels of {len(record['guides_fused_from'])} training cases", ", ".join(record["guides_fused_from"])
    elif record.get("guides_folder"):
        yield "guides", str(record["guides_folder"]), "named with --guides"
    for case, reason in (record.get("without_guides") or {}).items():
        yield f"guides of {case}", "none", str(reason)


def _in_unit(text: str, results: Results) -> str:
    """The engine counts in the unit of the headers, which it calls mm; pictures have none."""
    return text.replace(" mm", f" {results.unit}")


def _reasons(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Decision, its value, and why."""
    for name, because in (content.get("because") or {}).items():
        yield name, _value(content, name), str(because)


def _value(content: Any, name: str) -> str:
    for part in name.replace("[", ".").replace("]", "").split("."):
        if isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        elif isinstance(content, Mapping) and part in content:
            content = content[part]
        else:
            return ""
    return _told(content)


def _told(value: Any) -> str:
    """A value in a line; long ones are cut."""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key}: {_told(one)}" for key, one in value.items())
    elif isinstance(value, list):
        text = (" × " if value and all(isinstance(one, (int, float)) for one in value) else ", ").join(map(_told, value))
    else:
        text = "–" if value is None else str(value)
    return text if len(text) <= 160 else f"{text[:159]}…"


def run_rows(results: Results, order: Sequence[Ranked]) -> list[tuple[str, str]]:
    """How it was made: commands, versions, device, time and memory, as far as the folder says it."""
    rows, record, debug = [], results.record, results.debug
    for content, what in ((debug, "Training"), (record, "Registration" if results.alone else "Prediction"), (results.summary, "Evaluation")):
        if content.get("command"):
            rows.append((f"{what}: command", str(content["command"])))
        if content.get("nnreg_version"):
            rows.append((f"{what}: nnReg", str(content["nnreg_version"])))
    named = {"torch_version": "PyTorch", "trainer": "Trainer", "device": "Device", "parameters": "Parameters of the network", "overrides": "Changed by hand"}
    rows += [(title, _told(debug[key])) for key, title in named.items() if debug.get(key)]
    rows += [(title, str(record[key])) for key, title in (("model", "Model"), ("checkpoint", "Checkpoint")) if record.get(key)]
    stages = record.get("seconds")
    if isinstance(stages, Mapping):
        rows.append(("Seconds by stage", ", ".join(f"{_in_unit(name, results)} {value:.3g}" for name, value in stages.items())))
    seconds = [one.item.seconds for one in order if one.item.seconds is not None]
    if len(seconds) > 1:
        rows.append(("Seconds in all", f"{sum(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f} each)"))
    for key, title in (("peak_memory_gb", "Peak memory, GB"), ("peak_gpu_memory_gb", "Peak memory of the GPU, GB")):
        rows += [(f"{title} ({what})", number(content[key], "{:.2f}")) for content, what in ((debug, "training"), (record, "prediction")) if content.get(key)]
    configuration = (results.plans.get("configurations") or {}).get(debug.get("configuration_name"), {})
    if configuration.get("memory_gb"):
        rows.append(("Planned memory of a training step, GB", number(configuration["memory_gb"], "{:.2f}")))
    return rows
