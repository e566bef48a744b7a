"""What is done to predicted label maps afterwards, and whether it does good: found out on predictions of the training cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Integers
from nnreg.dataset.label_files import read_label_map
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.target_spec import WHOLE, Output, target_of
from nnreg.errors import EvaluationError
from nnreg.evaluation.dense_prediction.case import Label, evaluate_labels, key_of, label_files, summarise_dense
from nnreg.files import copy_file, read_json, write_json
from nnreg.imageio import Image, read_image, write_image
from nnreg.imageio.endings import stem_of
from nnreg.imageio.image import check_same_space
from nnreg.parallel import run_all
from nnreg.progress import Progress
from nnreg.registry import Registry

FILE_NAME = "postprocessing.json"
SCHEMA_VERSION = 1

STEPS: Registry[Callable[[Integers, Sequence[Label]], Integers]] = Registry("postprocessing step")
"""``step(label map, labels) -> label map``, by name."""


@dataclass(frozen=True)
class Step:
    """One thing to do: a registered function, and the labels or regions it is done to, together; of several targets, in the files of which."""

    name: str
    labels: tuple[Label, ...]
    target: str = WHOLE

    def __call__(self, labels: Integers) -> Integers:
        """The label map (*spatial) after the step."""
        return STEPS[self.name](labels, self.labels)


@STEPS.register("keep_largest_component")
def keep_largest_component(labels: Integers, chosen: Sequence[Label]) -> Integers:
    """Set to background all that is in `chosen` labels but not in the largest component of their union (diagonal neighbours belong together).

    Components of the same size as the largest are kept too.

    Examples
    --------
    >>> keep_largest_component(np.array([[1, 0, 2, 2]]), [1, 2])
    array([[0, 0, 2, 2]])
    """
    import cc3d

    values = sorted({value for label in chosen for value in ((label,) if isinstance(label, int) else label)})
    inside = np.isin(labels, values)
    components = np.asarray(cc3d.connected_components(inside.reshape((1,) * (3 - inside.ndim) + inside.shape), connectivity=26)).reshape(inside.shape)
    sizes = np.bincount(components.ravel())
    if len(sizes) <= 2:
        return labels
    sizes[0] = 0
    result = labels.copy()
    result[inside & ~np.isin(components, np.flatnonzero(sizes == sizes.max()))] = 0
    return result


# -- files ------------------------------------------------------------------------------------------------------------


def write_steps(path: Path, steps: Sequence[Step], because: Sequence[str] = ()) -> None:
    """Write ``postprocessing.json``; `because` says of what was tried how it went."""
    content = [
        {"name": step.name, "labels": [label if isinstance(label, int) else list(label) for label in step.labels]}
        | ({"target": step.target} if step.target else {})
        for step in steps
    ]
    write_json(path, {"schema_version": SCHEMA_VERSION, "steps": content, "because": list(because)})


def read_steps(path: Path) -> tuple[Step, ...]:
    """Read ``postprocessing.json``.

    Raises
    ------
    EvaluationError
        If it is missing, of another version or damaged.
    ConfigurationError
        If it names a step that does not exist.
    """
    content = read_json(path, EvaluationError)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise EvaluationError(f"{path}: expected schema_version {SCHEMA_VERSION}. Give the {FILE_NAME} that nnreg_find_best_configuration wrote.")
    try:
        steps = tuple(_step(entry) for entry in content["steps"])
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: expected steps, each with name and labels ({error}). Determine the postprocessing again.") from error
    for step in steps:
        STEPS[step.name]
    return steps


def _step(entry: Mapping[str, Any]) -> Step:
    labels = tuple(label if isinstance(label, int) else tuple(map(int, label)) for label in entry["labels"])
    return Step(entry["name"], labels, str(entry.get("target", WHOLE)))


@dataclass(frozen=True)
class _Apply:
    """Picklable: one label map through all steps."""

    steps: tuple[Step, ...]
    output: Path

    def __call__(self, path: Path) -> None:
        own = [step for step in self.steps if not step.target or stem_of(path).endswith(f"_{step.target}")]
        # values have no steps, need not be whole numbers, and may have several channels
        image = read_label_map(path) if own else read_image(path)
        array = image.array[0]
        for step in own:
            array = step(array)
        write_image(self.output / path.name, array[None].astype(image.array.dtype, copy=False) if own else image.array, image.space)


def apply_to_folder(folder: Path, output: Path, steps: Sequence[Step], *, processes: int = 1, on_progress: Progress = lambda done, total, what: None) -> int:
    """Postprocess every label map of `folder` into `output`, and copy the JSON files that lie beside them; returns how many there were.

    Raises
    ------
    EvaluationError
        If there is none, or `output` is `folder`.
    """
    files = list(label_files(folder).values())
    if not files:
        raise EvaluationError(f"{folder}: holds no label maps. Give the output folder of nnreg_predict or nnreg_ensemble.")
    if output.resolve() == folder.resolve():
        raise EvaluationError(f"{output}: is the folder of the predictions itself. Choose another output folder.")
    on_progress(0, len(files), "")
    for done, (path, _) in enumerate(run_all(_Apply(tuple(steps), output), files, processes=processes, name=lambda path: path.name), 1):
        on_progress(done, len(files), path.name)
    for name in ("dataset.json", "plans.json", "prediction.json"):
        if (folder / name).is_file():
            copy_file(folder / name, output / name)
    return len(files)


# -- finding out ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """Picklable: one case scored after each of several lists of steps."""

    references: Mapping[str, Path]
    predictions: Mapping[str, Path]
    labels: tuple[Label, ...]
    ignore: int | None
    candidates: tuple[tuple[Step, ...], ...]

    def __call__(self, case: str) -> list[dict[str, Any]]:
        reference, prediction = read_label_map(self.references[case]), read_label_map(self.predictions[case])
        check_same_space(prediction.space, self.predictions[case], reference.space, self.references[case])
        results = []
        for steps in self.candidates:
            array = prediction.array[0]
            for step in steps:
                array = step(array)
            changed = Image(array[None], prediction.space)
            results.append({"metrics": evaluate_labels(reference=reference, prediction=changed, labels=self.labels, ignore=self.ignore, additional=False)})
        return results


@dataclass
class _Search:
    """Keeps the steps that help."""

    references: Mapping[str, Path]
    predictions: Mapping[str, Path]
    labels: tuple[Label, ...]
    ignore: int | None
    processes: int
    target: str = WHOLE
    steps: tuple[Step, ...] = ()

    def scores(self, candidates: Sequence[tuple[Step, ...]]) -> list[dict[str, Any]]:
        """Summary of every candidate, all in one pass over the cases."""
        work = _Trial(self.references, self.predictions, self.labels, self.ignore, tuple(candidates))
        found = dict(run_all(work, sorted(self.predictions), processes=self.processes))
        return [summarise_dense([found[case][index] for case in sorted(found)], {}) for index in range(len(candidates))]

    def tried(self, candidates: Sequence[Step]) -> list[str]:
        """Try each of `candidates` after the steps that are kept already, keep those that help; returns a sentence about each."""
        before, *after = self.scores([self.steps, *((*self.steps, step) for step in candidates)])
        told = []
        for step, result in zip(candidates, after, strict=True):
            verdict = helps(before, result)
            if verdict:
                self.steps = (*self.steps, step)
            names = ", ".join(map(key_of, step.labels))
            change = f"{before['foreground_mean']['Dice']:.5f} to {result['foreground_mean']['Dice']:.5f}"
            told.append(f"{step.name} of {f'{self.target}: ' if self.target else ''}{names}: mean Dice {change}, {'kept' if verdict else 'left out'}")
        return told


def helps(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the mean Dice rises and that of no label falls (do no harm)."""
    if not after["foreground_mean"]["Dice"] > before["foreground_mean"]["Dice"]:
        return False
    return not any(after["mean"][key]["Dice"] < before["mean"][key]["Dice"] for key in before["mean"])


def determine_postprocessing(
    references: Mapping[str, Path],
    predictions: Mapping[str, Path],
    *,
    labels: Sequence[Label],
    ignore: int | None = None,
    processes: int = 1,
    target: str = WHOLE,
) -> tuple[tuple[Step, ...], list[str]]:
    """Find out which components are better removed: all but the largest of the whole foreground, then of every label (nnU-Net's order).

    Parameters
    ----------
    references, predictions
        Case to file: labels of the training cases, and what networks that had not seen them predicted.
    labels
        Values or regions, without background.
    ignore
        Value that is not scored.
    target
        Of several, that of the files; the steps say so.

    Returns
    -------
    steps : tuple of Step
        What is worth doing, in this order.
    because : list of str
        Everything that was tried, and how it went.
    """
    missing = sorted(set(predictions) - set(references))
    if missing or not predictions:
        raise EvaluationError(
            f"postprocessing is determined on predictions of labelled cases; {f'{missing[0]!r} has no labels' if missing else 'there are none'}."
        )
    search = _Search(references, predictions, tuple(labels), ignore, processes, target)
    told = search.tried([Step("keep_largest_component", tuple(labels), target)])
    single = [Step("keep_largest_component", (label,), target) for label in labels] if len(labels) > 1 else []
    # what is removed of one label changes no other: one pass tells of all
    together = [single] if all(isinstance(label, int) for label in labels) else [[step] for step in single]
    for candidates in filter(None, together):
        told += search.tried(candidates)
    return search.steps, told


def determine_for_targets(
    references: Mapping[str, Path], predictions: Mapping[str, Path], outputs: Mapping[str, Output], *, processes: int = 1
) -> tuple[tuple[Step, ...], list[str]]:
    """:func:`determine_postprocessing` of every target that has labels.

    Parameters
    ----------
    references, predictions
        File by its name without the ending: the case, of several targets ``CASE_TARGET``.
    outputs
        What the targets are.
    """
    steps: tuple[Step, ...] = ()
    told: list[str] = []
    for target, output in outputs.items():
        if not isinstance(output, LabelManager):
            continue
        own = {stem: path for stem, path in predictions.items() if target_of(stem, outputs) == target}
        named = target if len(outputs) > 1 else WHOLE
        more, said = determine_postprocessing(references, own, labels=output.foreground, ignore=output.ignore, processes=processes, target=named)
        steps, told = (*steps, *more), told + said
    return steps, told
