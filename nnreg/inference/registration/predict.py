"""Predict pairs into a folder: transforms, fields, warped images and labels on native grids."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from nnreg.dataset import RawDataset
from nnreg.dataset.pairs import MOST_OF_ALL, Pair, check_pair_names, pairs_among, too_many
from nnreg.dataset.raw import Case
from nnreg.dataset.spec import DatasetSpec
from nnreg.documents import understood
from nnreg.errors import PredictionError
from nnreg.evaluation.registration.pictures import overview_of_transform
from nnreg.files import read_json, read_object, refuse_mixture, writable_folder, write_json
from nnreg.geometry.transform_files import write_learn2reg
from nnreg.imageio import ending_of
from nnreg.imageio.endings import unit_of
from nnreg.inference.predictor import PairTransforms, Predictor, TrainedModel
from nnreg.inference.registration.cases import CaseSource, FolderCases, NewImages, TrainingCases, refuse_own_folder
from nnreg.inference.registration.export import DONE, write_pair
from nnreg.inference.registration.models import Fused, Origin, PairModel, TrainedPairs
from nnreg.inference.registration.pair_predictors import NetworkPredictor, PairMapper
from nnreg.lock import held
from nnreg.parallel import run_all
from nnreg.planning.registration.engine_settings import NETWORK
from nnreg.progress import Progress
from nnreg.run_record import run_record

PREDICTION_FILE = "prediction.json"
GUIDES = "guides"
"""Folder in a prediction's: labels of its images that were fused from training cases, and guided."""
SCHEMA_VERSION = 1
DIGESTS = "digests"
"""Key of a pair: of the files of its fixed and its moving case when it was predicted."""


@dataclass(frozen=True)
class PredictOptions:
    """What is written beside the transforms, whether finished pairs are kept, by which of ``METHODS`` pairs are predicted, and how many at a time.

    Without a `method` it is what validation found best. If not `guided`, labels of training cases do not guide the engine, whatever the plans say.
    """

    method: str | None = None
    learn2reg: bool = False
    pictures: bool = True
    field: bool = False
    inverse: bool = False
    continue_prediction: bool = False
    processes: int = 1
    guided: bool = True


class GuideMaker(Protocol):
    """Labels images by the training cases of a dataset, for plans in which these guide the engine."""

    def __call__(self, source: CaseSource, cases: Sequence[str], output: Path, *, processes: int = 1, on_progress: Progress) -> Fused:
        """Write ``CASE.ending`` of the cases into `output`."""
        ...


def predict_pairs(
    mapper: PairMapper,
    source: CaseSource,
    pairs: Sequence[Pair],
    output: Path,
    *,
    origin: Origin,
    options: PredictOptions = PredictOptions(),
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Predict `pairs` into `output`, one folder each, and list them in ``prediction.json`` as they finish.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    with held(writable_folder(output), "written to", PredictionError):
        return _predict_pairs(mapper, source, pairs, output, origin, options, on_progress)


def _predict_pairs(
    mapper: PairMapper, source: CaseSource, pairs: Sequence[Pair], output: Path, origin: Origin, options: PredictOptions, on_progress: Progress
) -> dict[str, Any]:
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION} | origin.told() | run_record()
    if pairs:
        content["images_folder"] = str(source.paths(pairs[0].moving)[0].parent.absolute())
    earlier = _earlier(output, content) if options.continue_prediction else {}
    entries = {pair.name: earlier[pair.name] for pair in pairs if _still_true(earlier.get(pair.name), source, pair, output)}
    missing = [pair for pair in pairs if pair.name not in entries]

    def write() -> dict[str, Any]:
        listed = content | {"pairs": [entries[pair.name] for pair in pairs if pair.name in entries]}
        write_json(output / PREDICTION_FILE, listed)
        return listed

    on_progress(len(entries), len(pairs), missing[0].name if missing else "done")
    # a list of many pairs is not written after each of them: the time of that grows with its square
    written, often = len(entries), max(1, len(pairs) // 100)
    try:
        for pair, entry in run_all(_PairWork(mapper, source, output, options), missing, processes=options.processes, name=lambda pair: pair.name):
            entries[pair.name] = entry
            on_progress(len(entries), len(pairs), pair.name)
            if len(entries) - written >= often:
                write()
                written = len(entries)
    except BaseException:
        if len(entries) > written:
            write()
        raise
    return write()


@dataclass(frozen=True)
class _PairWork:
    """Predicts a pair into its folder, in whatever process; returns its entry of ``prediction.json``."""

    mapper: PairMapper
    source: CaseSource
    output: Path
    options: PredictOptions

    def __call__(self, pair: Pair) -> dict[str, Any]:
        started, source = time.monotonic(), self.source
        digests = _digests(source, pair)
        notes = _predict_pair(self.mapper, source, pair, self.output, self.options)
        return {
            "name": pair.name,
            "fixed": pair.fixed,
            "moving": pair.moving,
            "fixed_images": [path.name for path in source.paths(pair.fixed)],
            "moving_images": [path.name for path in source.paths(pair.moving)],
            DIGESTS: digests,
            "seconds": round(time.monotonic() - started, 3),
            **notes,
        }


def _predict_pair(mapper: PairMapper, source: CaseSource, pair: Pair, output: Path, options: PredictOptions) -> dict[str, Any]:
    transforms = mapper.transforms(pair, source)
    fixed, moving = source.image(pair.fixed), source.image(pair.moving)
    ending, unit = ending_of(source.paths(pair.fixed)[0]), unit_of(source.paths(pair.fixed), fixed.space)
    write_pair(
        output / pair.name,
        transforms,
        fixed=fixed,
        moving=Case(moving, source.labels(pair.moving)),
        ending=ending,
        picture=functools.partial(overview_of_transform, unit=unit) if options.pictures else None,
        field=options.field,
        inverse=options.inverse,
    )
    if options.learn2reg:
        write_learn2reg(output / "learn2reg" / f"disp_{pair.fixed}_{pair.moving}.nii.gz", transforms.transform, fixed=fixed.space, moving=moving.space)
    return transforms.notes | ({} if unit == "mm" else {"unit": unit})


def _earlier(output: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Pairs of an earlier prediction by name; one by another model or method is not gone on with: the folder would hold a mixture."""
    path = output / PREDICTION_FILE
    if not path.is_file():
        return {}
    content = read_object(path, PredictionError)
    for key in ("model", "method"):
        if content.get(key, now.get(key)) != now.get(key):
            found = f"{key} {content[key]}, now it is {now.get(key)}"
            raise PredictionError(f"{path}: its pairs were predicted by {found}. Predict into another folder, or without --continue_prediction.")
    with understood(path, PredictionError, "Predict into another folder, or without --continue_prediction."):
        return {str(entry["name"]): entry for entry in content["pairs"]}


def _still_true(entry: Mapping[str, Any] | None, source: CaseSource, pair: Pair, output: Path) -> bool:
    """Whether a pair is predicted, and from the files that are there now; entries of before tell nothing of their files."""
    if entry is None or not (output / pair.name / DONE).is_file():
        return False
    return entry.get(DIGESTS) in (None, _digests(source, pair))


def _digests(source: CaseSource, pair: Pair) -> list[str]:
    return [source.digest(pair.fixed), source.digest(pair.moving)]


def predict_training_cases(predictor: Predictor, raw: RawDataset, arrays: Path, pairs: Sequence[Pair], output: Path, *, on_progress: Progress) -> None:
    """Predict pairs of a dataset's own cases from their stored arrays (the full validation of a fold): what the network does, without refinement."""
    origin = Origin(predictor.plans.dataset_name, predictor.plans.plans_name)
    predict_pairs(NetworkPredictor(predictor), TrainingCases(raw, arrays), pairs, output, origin=origin, on_progress=on_progress)


def predict_folder(
    model: TrainedModel,
    images: Path,
    output: Path,
    *,
    labels: Path | None = None,
    pairs: Sequence[Pair] | None = None,
    atlas_images: Mapping[str, list[Path]] = MappingProxyType({}),
    guides: Path | None = None,
    options: PredictOptions = PredictOptions(),
    make_guides: GuideMaker | None = None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Register the images of a folder with a trained model: :func:`register_images` by :class:`TrainedPairs`, with the attributes of :class:`NewImages`."""
    new = NewImages(images, labels, pairs, atlas_images, guides)
    return register_images(TrainedPairs(model), new, output, options=options, make_guides=make_guides, on_progress=on_progress)


def register_images(
    model: PairModel,
    images: NewImages,
    output: Path,
    *,
    options: PredictOptions = PredictOptions(),
    make_guides: GuideMaker | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Register new images pair by pair.

    Parameters
    ----------
    model
        A trained model, or the engine with the settings of plans.
    images
        With what lies beside them.
    output
        Where ``FIXED__MOVING`` folders and ``prediction.json`` go.
    make_guides
        Where the plans say that labels of training cases guide the engine: what labels the images by them, into the folder ``guides`` of `output`.
    on_note
        Hears in a sentence what predicts, and why.

    Returns
    -------
    dict
        The content of ``prediction.json``.

    Raises
    ------
    PredictionError
        If the images are none of the model, or lack what guides the engine.
    """
    refuse_own_folder(output, images.folder, images.labels, images.guides)
    refuse_mixture(output, "measures.json", "nnreg_register")
    writable_folder(output)
    source = model.source(images)
    pairs = chosen_pairs(model.spec, source, images)
    _check_form(pairs, source, images, options)
    mapper, origin = model.mapper(options.method)
    if origin.method is not None:
        on_note(f"predicting by {origin.method.value}: {origin.method.because}")
    if _guided_by_training_cases(model, images, origin, options):
        if make_guides is None:
            raise PredictionError(f"optimisation.guides of the plans is {model.settings.guides}: no training cases were given, whose labels guide the engine.")
        on_note(f"labels of {model.settings.guides} training cases guide the engine: {model.settings.because.get('guides', 'set by hand')}")
        guides = output / GUIDES
        fused = make_guides(source, cases_of(pairs), guides, processes=options.processes, on_progress=on_progress)
        for case, reason in fused.failed.items():
            on_note(f"pairs of {case} are registered without guides: {reason}")
        source, origin = model.source(replace(images, guides=guides, guides_of_all=False)), replace(origin, guides=guides, fused=fused)
    else:
        origin = replace(origin, guides=images.guides)
    return predict_pairs(_Opened.of(mapper, model, options.method), source, pairs, output, origin=origin, options=options, on_progress=on_progress)


def _guided_by_training_cases(model: PairModel, images: NewImages, origin: Origin, options: PredictOptions) -> bool:
    """Whether guides have to be made."""
    network_alone = origin.method is not None and origin.method.value == NETWORK
    if images.guides is not None and network_alone:
        raise PredictionError(
            f"--guides {images.guides}: labels guide the engine, and pairs are predicted by the network alone. Leave it out, or use --method refined."
        )
    return images.guides is None and not network_alone and options.guided and model.settings.guides > 0


def cases_of(pairs: Sequence[Pair]) -> list[str]:
    """The cases of pairs, each once."""
    return sorted({case for pair in pairs for case in (pair.fixed, pair.moving)})


_opened: dict[str, PairMapper] = {}  # in this process, by the token of their run; the latest alone


@dataclass(frozen=True)
class _Opened:
    """The mapper of a model: networks cannot be sent to another process, which opens the model once instead."""

    token: str
    model: PairModel
    method: str | None

    @classmethod
    def of(cls, mapper: PairMapper, model: PairModel, method: str | None) -> _Opened:
        """With the mapper that this process has opened."""
        result = cls(secrets.token_hex(8), model, method)
        result._keep(mapper)
        return result

    def transforms(self, pair: Pair, source: CaseSource) -> PairTransforms:
        """See :class:`PairMapper`."""
        if self.token not in _opened:
            self._keep(self.model.mapper(self.method)[0])
        return _opened[self.token].transforms(pair, source)

    def _keep(self, mapper: PairMapper) -> None:
        _opened.clear()
        _opened[self.token] = mapper


def chosen_pairs(spec: DatasetSpec, source: FolderCases, images: NewImages) -> list[Pair]:
    """The pairs to register, with every file there."""
    if images.pairs is None and spec.pairing == "all" and too_many(source.cases):
        raise PredictionError(
            f"{images.folder}: its {len(source.cases)} cases form {len(source.cases) * (len(source.cases) - 1)} pairs under pairing 'all', more than "
            f"{MOST_OF_ALL}. Name those to register with --pairs, or the one to register to with --fixed."
        )
    chosen = list(images.pairs) if images.pairs is not None else list(pairs_among(spec, source.cases))
    if not chosen:
        names = ", ".join(source.cases[:8])
        no_pair = f"{images.folder}: its cases ({names}) form no pair under pairing {spec.pairing!r}."
        raise PredictionError(f"{no_pair} Name them with --pairs or --fixed and --moving.")
    check_pair_names(chosen)
    for pair in chosen:
        source.paths(pair.fixed), source.paths(pair.moving)
    return chosen


def _check_form(chosen: Sequence[Pair], source: FolderCases, images: NewImages, options: PredictOptions) -> None:
    if options.learn2reg and source.image(chosen[0].fixed).ndim != 3:
        raise PredictionError(f"--learn2reg: its field format is three-dimensional, {images.folder} holds 2D images. Leave it out.")


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from a JSON list of ``{"fixed": ..., "moving": ...}`` or ``[fixed, moving]``.

    Raises
    ------
    PredictionError
        If an entry is neither.
    """
    pairs = []
    content = read_json(path, PredictionError)
    for entry in content if isinstance(content, list) else [content]:
        if isinstance(entry, dict) and {"fixed", "moving"} <= entry.keys():
            pairs.append(Pair(str(entry["fixed"]), str(entry["moving"])))
        elif isinstance(entry, list) and len(entry) == 2:
            pairs.append(Pair(str(entry[0]), str(entry[1])))
        else:
            raise PredictionError(f'{path}: found {str(entry)[:60]!r}, expected a list of {{"fixed": CASE, "moving": CASE}}.')
    return pairs
