"""Predict label maps into a folder: image → working grid → tiles → native grid → file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nnreg.dataset.continuous import Continuous
from nnreg.dataset.spec import FILE_NAME as SPEC
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import PredictionError
from nnreg.evaluation.dense_prediction.pictures import overview_of_labels
from nnreg.evaluation.dense_prediction.value_pictures import overview_of_values
from nnreg.files import writable_folder
from nnreg.imageio import as_stored, is_image_file, read_image, write_image
from nnreg.imageio.endings import ending_for
from nnreg.inference.dense_prediction.large import predict_large
from nnreg.inference.dense_prediction.predictor import DEFAULT_TILES, DensePredictor, TileOptions
from nnreg.inference.dense_prediction.probabilities import ENDING as PROBABILITIES
from nnreg.inference.dense_prediction.probabilities import write_probabilities
from nnreg.inference.dense_prediction.record import DIGEST, PREDICTION_FILE, PredictionRecord
from nnreg.inference.dense_prediction.sources import DenseSource, NewCases, Prepared, label_ending
from nnreg.inference.predictor import ModelFolder, Predictor, TrainedModel
from nnreg.inference.registration.cases import refuse_own_folder
from nnreg.inference.registration.prefetch import Behind, ahead
from nnreg.lock import LOCK_FILE, held
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.progress import Progress
from nnreg.run_record import run_record

PICTURES = "overview"
_drawing = threading.Lock()  # matplotlib is not made for several threads


@dataclass(frozen=True)
class DenseOptions:
    """What is written, and by how many.

    Attributes
    ----------
    save_probabilities
        Also write ``CASE.npz``, for ensembles.
    pictures
        Also draw ``overview/CASE.png``.
    continue_prediction
        Keep cases that are finished.
    readers, writers
        Cases that are preprocessed ahead, and written behind, while the networks run; 0: one after the other.
    part, parts
        Predict every `parts`-th case from `part` on; the others are left to other machines.
    """

    save_probabilities: bool = False
    pictures: bool = True
    continue_prediction: bool = False
    readers: int = 0
    writers: int = 0
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise PredictionError(f"-part_id {self.part}: expected 0 to {self.parts - 1}, one less than -num_parts.")


def predict_cases(
    predictor: DensePredictor,
    source: DenseSource,
    output: Path,
    *,
    model: str,
    options: DenseOptions = DenseOptions(),
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Predict the cases of `source` into `output`: ``CASE.ending`` (of several targets ``CASE_TARGET.ending``), listed in ``prediction.json`` as they finish.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    lock = LOCK_FILE if options.parts == 1 else f"{LOCK_FILE}_{options.part}"
    with held(writable_folder(output), "written to", PredictionError, name=lock):
        return _predict_cases(predictor, source, output, model, options, on_progress)


def _predict_cases(predictor: DensePredictor, source: DenseSource, output: Path, model: str, options: DenseOptions, on_progress: Progress) -> dict[str, Any]:
    predictor.plans.write(output / "plans.json")
    predictor.spec.write(output / SPEC)
    cases = source.cases[options.part :: options.parts]
    record = PredictionRecord(output / (PREDICTION_FILE if options.parts == 1 else f"prediction_part_{options.part}.json"), predictor, model)
    if cases:
        record.content |= run_record() | {"images_folder": str(source.files(cases[0])[0].parent.absolute())}
    finished_before = [case for case in cases if _is_finished(output, case, predictor, source, options)]
    kept = record.keep(finished_before, source.digest) if options.continue_prediction else []
    on_progress(len(kept), len(cases), "")
    writer = _Writer(predictor, source, output, options)
    with Behind(options.writers) as workers:

        def finished(entries: Iterable[dict[str, Any]]) -> None:
            for entry in entries:
                on_progress(record.add(entry), len(cases), entry["name"])

        rest = [case for case in cases if case not in kept]
        by_parts = [case for case in rest if source.is_large(case)]
        for case in by_parts:
            finished([_predict_large(predictor, source, case, output, options)])
        for case, prepared in ahead(source.prepare, [case for case in rest if case not in by_parts], options.readers):
            started = time.monotonic()
            logits = predictor.logits(prepared.image, prepared.previous)
            finished(workers.give(writer, case, prepared, logits, time.monotonic() - started))
        finished(workers.rest())
    record.write()
    return record.content


def target_files(predictor: DensePredictor, source: DenseSource, case: str) -> dict[str, str]:
    """By target, the name of the file that is predicted of a case. Values of a format that holds whole numbers alone become TIFF, unless they are such."""
    ending = label_ending(source, case)
    return {
        target: f"{stem}{ending_for(ending, predictor.dtype(target)) if isinstance(predictor.targets[target], Continuous) else ending}"
        for target, stem in predictor.stems(case).items()
    }


def _is_finished(output: Path, case: str, predictor: DensePredictor, source: DenseSource, options: DenseOptions) -> bool:
    stems = predictor.stems(case)
    probabilities = [f"{stem}{PROBABILITIES}" for target, stem in stems.items() if options.save_probabilities and predictor.has_labels(target)]
    return all(is_image_file(output / name) for name in (*target_files(predictor, source, case).values(), *probabilities))


@dataclass(frozen=True)
class _Writer:
    """Logits onto the native grid and into files."""

    predictor: DensePredictor
    source: DenseSource
    output: Path
    options: DenseOptions

    def __call__(self, case: str, prepared: Prepared, logits: Tensor, seconds: float) -> dict[str, Any]:
        """The case's entry of ``prediction.json``."""
        started = time.monotonic()
        stems = self.predictor.stems(case)
        for target, name in target_files(self.predictor, self.source, case).items():
            write = self._write if self.predictor.has_labels(target) else self._write_values
            write(case, target, stems[target], self.output / name, prepared, logits)
        return {
            "name": case,
            "images": [path.name for path in self.source.files(case)],
            DIGEST: self.source.digest(case),
            "seconds": {"network": round(seconds, 3), "writing": round(time.monotonic() - started, 3)},
        }

    def _write_values(self, case: str, target: str, stem: str, path: Path, prepared: Prepared, outputs: Tensor) -> None:
        """What is told of a continuous target."""
        values = prepared.back(self.predictor.value_map(outputs, prepared.properties, target))
        if self.options.pictures:
            found = self.source.truth(case, target)
            truth = None if found is None else read_image(found)
            with _drawing:
                overview_of_values(self.output / PICTURES / f"{stem}.png", prepared.native, values, truth=truth)
        write_image(path, as_stored(values, self.predictor.dtype_in(path, target)), prepared.native.space)

    def _write(self, case: str, target: str, stem: str, path: Path, prepared: Prepared, logits: Tensor) -> None:
        """What is told of a target of labels, in files that begin with `stem`."""
        if self.options.save_probabilities:
            probabilities = prepared.back(self.predictor.probabilities(logits, prepared.properties, target))
            write_probabilities(self.output / f"{stem}{PROBABILITIES}", probabilities, probabilities.shape)
            del probabilities
        labels = prepared.back(self.predictor.label_map(logits, prepared.properties, target)[None])[0]
        if self.options.pictures:
            found = self.source.truth(case, target)
            truth = None if found is None else read_image(found)
            with _drawing:
                overview_of_labels(self.output / PICTURES / f"{stem}.png", prepared.native, labels, truth=truth, names=self.predictor.label_names(target))
        # last: a case that has its label maps is whole
        write_image(path, labels[None], prepared.native.space)


def _predict_large(predictor: DensePredictor, source: DenseSource, case: str, output: Path, options: DenseOptions) -> dict[str, Any]:
    """The entry of a case that does not fit into memory; it gets no picture."""
    if options.save_probabilities:
        raise PredictionError(f"{source.files(case)[0]}: is too large to keep its probabilities. Leave --save_probabilities (--npz) out, or cut the image.")
    started = time.monotonic()
    predict_large(predictor, source.prepare_large(case), {target: output / name for target, name in target_files(predictor, source, case).items()})
    seconds = {"network": round(time.monotonic() - started, 3), "writing": 0.0}
    return {"name": case, "images": [path.name for path in source.files(case)], DIGEST: source.digest(case), "seconds": seconds}


# -- from folders -----------------------------------------------------------------------------------------------------


def predict_folder(
    model: TrainedModel,
    images: Path,
    output: Path,
    *,
    previous: Path | None = None,
    tiles: TileOptions = DEFAULT_TILES,
    options: DenseOptions = DenseOptions(),
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Predict the images of a folder with a trained model.

    Parameters
    ----------
    model
        The logits of its folds are averaged.
    images
        Folder of ``CASE_0000.ending`` files.
    output
        Where ``CASE.ending`` label maps and ``prediction.json`` go.
    previous
        In a cascade, the label maps of the stage before; without them its model, beside this one, predicts into ``output/<its configuration>``.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    folder = model.folder
    plans = dense_plans(folder)
    refuse_own_folder(output, images, previous)
    writable_folder(output)
    stage = plans.configuration(folder.configuration_name).previous_stage
    if stage is not None and previous is None:
        previous = output / stage
        quick = replace(options, save_probabilities=False, pictures=False, part=0, parts=1)
        predict_folder(_earlier_stage(model, stage), images, previous, tiles=tiles, options=quick, on_progress=on_progress)
    elif stage is None and previous is not None:
        raise PredictionError(f"-prev_stage_predictions {previous}: {folder.configuration_name} is no second stage. Leave it out.")
    source = NewCases(images, plans, folder.configuration_name, folder.spec, previous)
    predictor = dense_predictor(model.predictor(), folder.spec, tiles)
    return predict_cases(predictor, source, output, model=folder.path.name, options=options, on_progress=on_progress)


def _earlier_stage(model: TrainedModel, stage: str) -> TrainedModel:
    """The model of the stage before, which lies beside this one."""
    path = model.folder.path.with_name("__".join([*model.folder.path.name.split("__")[:2], stage]))
    if not path.is_dir():
        name = model.folder.configuration_name
        raise PredictionError(f"{path}: does not exist, but {name} needs predictions of {stage}. Train it, or name them with -prev_stage_predictions.")
    return replace(model, folder=ModelFolder.open(path))


def dense_plans(model: ModelFolder) -> DensePlans:
    """The model's plans, if they are of dense prediction.

    Raises
    ------
    PredictionError
        If they are of another task.
    """
    if not isinstance(model.plans, DensePlans):
        raise PredictionError(f"{model.path}: is a model of the task {model.plans.task}, a model of dense prediction was expected.")
    return model.plans


def dense_predictor(predictor: Predictor, spec: DatasetSpec, tiles: TileOptions = DEFAULT_TILES) -> DensePredictor:
    """Of trained networks, as they come from a model folder or from the trainer."""
    plans, configuration = predictor.plans, predictor.configuration
    if not isinstance(plans, DensePlans) or not isinstance(configuration, DenseConfiguration):
        raise PredictionError(f"{plans.plans_name} of {plans.dataset_name}: are plans of the task {plans.task}, plans of dense prediction were expected.")
    return DensePredictor(plans=plans, configuration=configuration, spec=spec, networks=predictor.networks, device=predictor.device, tiles=tiles)
