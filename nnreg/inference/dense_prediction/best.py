"""Which configuration, or which two together, predict the training cases best that they had not seen; and what to run for new images."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.target_spec import stem_of_target
from nnreg.errors import EvaluationError
from nnreg.evaluation.dense_prediction.case import label_files
from nnreg.evaluation.dense_prediction.crossval import FOLDS, SUMMARY, Crossval, accumulate, figure_of, score_of
from nnreg.evaluation.dense_prediction.folder import evaluate_dense_folder, outputs_of_predictions, references
from nnreg.evaluation.dense_prediction.postprocessing import FILE_NAME as POSTPROCESSING
from nnreg.evaluation.dense_prediction.postprocessing import apply_to_folder, determine_for_targets, write_steps
from nnreg.evaluation.summary import write_summary
from nnreg.files import read_object, write_json, write_text
from nnreg.inference.dense_prediction.ensemble import EnsembleCase, ensemble_cases, member_files
from nnreg.progress import Progress

INFORMATION, INSTRUCTIONS = "inference_information.json", "inference_instructions.txt"
SCHEMA_VERSION = 1
Note = Callable[[str], None]


@dataclass(frozen=True)
class Contestant:
    """A model or an ensemble of two, on the cases of the cross-validation.

    Attributes
    ----------
    name : that of the model's folder, or ``ensemble___A___B___folds``
    models : folders TRAINER__PLANS__CONFIGURATION
    folder : with the label maps of all cases
    score
        Mean foreground Dice; without labels the mean PSNR. See :func:`nnreg.evaluation.dense_prediction.crossval.score_of`.
    """

    name: str
    models: tuple[Path, ...]
    folder: Path
    score: float


@dataclass(frozen=True)
class BestConfiguration:
    """What :func:`find_best_configuration` found.

    Attributes
    ----------
    contestants : all of them, in the order in which ties are decided
    best : Contestant
    postprocessed
        Score of the best after postprocessing.
    figure
        What the scores are: ``Dice`` or ``PSNR``.
    instructions : text
        Commands for new images.
    """

    contestants: tuple[Contestant, ...]
    best: Contestant
    postprocessed: float
    figure: str
    instructions: str


def find_best_configuration(
    results: Path,
    raw: RawDataset,
    models: Sequence[Path],
    *,
    folds: Sequence[str] = FOLDS,
    ensembling: bool = True,
    overwrite: bool = True,
    processes: int = 1,
    on_note: Note = lambda note: None,
    on_progress: Progress = lambda done, total, what: None,
) -> BestConfiguration:
    """Compare models and their ensembles by cross-validation, find the postprocessing of the best, and write what to run.

    Writes ``inference_information.json`` and ``inference_instructions.txt`` into `results`.

    Parameters
    ----------
    results
        ``nnReg_results/DatasetXXX_Name``.
    raw
        The dataset with the labels.
    models
        Folders TRAINER__PLANS__CONFIGURATION, simplest first: among equals the first wins.
    folds
        Which were trained.
    ensembling
        Whether to try every two models together; they need the probabilities of their validation cases.
    overwrite
        Whether to join and evaluate again what is there already.
    on_note
        Hears in a sentence what was left out and why.

    Raises
    ------
    EvaluationError
        If there is no model, or a fold of one was not validated.
    """
    if not models:
        raise EvaluationError(f"{results}: holds no trained model of these plans. Train one, or name plans and trainer with -p and -tr.")
    joined = [accumulate(model, raw, folds, overwrite=overwrite, processes=processes, on_progress=on_progress) for model in models]
    contestants = [Contestant(found.model.name, (found.model,), found.folder, found.score) for found in joined]
    if ensembling:
        for pair in itertools.combinations(joined, 2):
            found = _ensemble(results, raw, pair, overwrite, processes, on_note, on_progress)
            contestants += [] if found is None else [found]
    best = max(contestants, key=lambda contestant: contestant.score)
    after = _postprocess(best, raw, processes)
    instructions = instructions_for(best, raw, tuple(folds))
    write_json(results / INFORMATION, _information(contestants, best, after, raw, folds, ensembling))
    write_text(results / INSTRUCTIONS, instructions)
    return BestConfiguration(tuple(contestants), best, after, figure_of(joined[0].summary), instructions)


def _ensemble(
    results: Path, raw: RawDataset, pair: Sequence[Crossval], overwrite: bool, processes: int, on_note: Note, on_progress: Progress
) -> Contestant | None:
    first, second = pair
    name = f"ensemble___{first.model.name}___{second.model.name}___{'_'.join(first.folds)}"
    folder, spec = results / "ensembles" / name, DatasetSpec.read(first.model / FILE_NAME)
    cases = []
    for case, path in first.label_maps.items():
        if case not in second.label_maps:
            raise EvaluationError(f"{second.model}: did not validate case {case!r}, {first.model.name} did. Train all configurations on one split.")
        members = member_files(case, [member.label_maps[case] for member in pair], spec)
        missing = [member for member in members if not member.is_file()]
        if missing:
            on_note(f"{name}: left out, {missing[0]} does not exist. Validate again with probabilities: nnreg_train ... --val --npz.")
            return None
        cases.append(EnsembleCase(case, members, path))
    if overwrite or not (folder / SUMMARY).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        ensemble_cases(cases, folder, spec, dataset=raw.name, model=name, processes=processes, on_progress=on_progress)
        write_summary(folder / SUMMARY, evaluate_dense_folder(folder, raw, surface=False, processes=processes))
    return Contestant(name, (first.model, second.model), folder, score_of(read_object(folder / SUMMARY, EvaluationError)))


def _postprocess(best: Contestant, raw: RawDataset, processes: int) -> float:
    """Write ``postprocessing.json`` and ``postprocessed/`` beside the best's label maps; returns the score they reach."""
    outputs = outputs_of_predictions(best.folder, raw)
    truth = {stem_of_target(case, target, len(outputs) > 1): path for target in outputs for case, path in references(raw, target).items()}
    steps, told = determine_for_targets(truth, label_files(best.folder), outputs, processes=processes)
    write_steps(best.folder / POSTPROCESSING, steps, told)
    output = best.folder / "postprocessed"
    shutil.rmtree(output, ignore_errors=True)
    apply_to_folder(best.folder, output, steps, processes=processes)
    summary = evaluate_dense_folder(output, raw, surface=False, processes=processes)
    write_summary(output / SUMMARY, summary)
    return score_of(summary)


def _information(contestants: Sequence[Contestant], best: Contestant, after: float, raw: RawDataset, folds: Sequence[str], ensembling: bool) -> dict[str, Any]:
    """With nnU-Net's keys."""
    single = [contestant for contestant in contestants if len(contestant.models) == 1]
    return {
        "schema_version": SCHEMA_VERSION,
        "folds": list(folds),
        "dataset_name_or_id": raw.name,
        "considered_models": [_described(contestant.models[0]) for contestant in single],
        "ensembling_allowed": ensembling,
        "all_results": {contestant.name: contestant.score for contestant in contestants},
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": best.score,
            "result_on_crossval_post_pp": after,
            "postprocessing_file": str(best.folder / POSTPROCESSING),
            "some_plans_file": str(best.models[0] / "plans.json"),
            "selected_model_or_models": [_described(model) for model in best.models],
        },
    }


def _described(model: Path) -> dict[str, str]:
    trainer, plans, configuration = model.name.split("__")
    return {"configuration": configuration, "trainer": trainer, "plans_identifier": plans}


def instructions_for(best: Contestant, raw: RawDataset, folds: Sequence[str]) -> str:
    """The commands that predict new images as the best did."""
    lines = ["# Predict new images: put your folders in place of INPUT_FOLDER and OUTPUT_FOLDER", ""]
    together = len(best.models) > 1
    outputs = [f"OUTPUT_FOLDER_MODEL_{index}" for index in range(1, len(best.models) + 1)] if together else ["OUTPUT_FOLDER"]
    for model, output in zip(best.models, outputs, strict=True):
        told = _described(model)
        lines.append(
            f"nnreg_predict -i INPUT_FOLDER -o {output} -d {raw.name[7:10]} -c {told['configuration']} -tr {told['trainer']} -p {told['plans_identifier']} "
            f"-f {' '.join(folds)}{' --save_probabilities' if together else ''}"
        )
    if together:
        lines.append(f"nnreg_ensemble -i {' '.join(outputs)} -o OUTPUT_FOLDER")
    lines.append(f"nnreg_apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP -pp_json {best.folder / POSTPROCESSING}")
    return "\n".join(lines) + "\n"
