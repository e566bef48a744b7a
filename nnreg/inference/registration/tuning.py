"""The empirical step: alternatives to the plan's settings are measured on training pairs, and the plans keep what wins.

Above the engine and the evaluation, because it uses both; which alternatives there are and which wins is decided in :mod:`nnreg.planning.registration.tuning`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.dataset import RawDataset
from nnreg.dataset.pairs import Pair
from nnreg.dataset.raw import Case
from nnreg.errors import PlansError, RegistrationError
from nnreg.evaluation.registration.pair import evaluate_pair
from nnreg.evaluation.summary import worst_mean
from nnreg.files import read_json, write_json
from nnreg.imageio import Image
from nnreg.inference.registration.pair_predictors import run_engine
from nnreg.inference.registration.validation_scores import Trained, trained_networks
from nnreg.planning.registration.engine_settings import Measure, Optimisation, Score, Tuning
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.planning.registration.rules.relation import modality_relation
from nnreg.planning.registration.tuning import alternatives, before_tuning, changes, ranked, tuned
from nnreg.preprocessing.plan_files import read_plans
from nnreg.preprocessing.registration.pairs import FEWEST, files_digest, pairs_digest, sampled_pairs
from nnreg.preprocessing.registration.pipeline import read_fingerprint
from nnreg.progress import Progress
from nnreg.typed import from_mapping, to_mapping
from nnreg.workspace import Workspace

FOLDER = "tuning"
SCHEMA_VERSION = 1
BUDGET_SECONDS = 1800.0
FIGURES: dict[Measure, str] = {"dice": "dice_after", "keypoint_mm": "tre_mm_after"}  # as the evaluation calls them


def tune(
    workspace: Workspace,
    dataset: int | str,
    *,
    plans_name: str = "nnRegPlans",
    seconds: float = BUDGET_SECONDS,
    clean: bool = False,
    write: bool = True,
    on_progress: Progress = lambda done, total, what: None,
) -> RegistrationPlans:
    """Try alternatives to the planned settings on training pairs and keep in the plans what wins by rank.

    Pairs are drawn with a fixed seed, and each goes through all alternatives before the next one is begun, so that all are compared on the same pairs. Each
    registration is kept in ``tuning/`` of the preprocessed dataset as soon as it is done.

    Parameters
    ----------
    workspace, dataset, plans_name
        RegistrationPlans are read and written there. Tuned plans are tuned again from what the rules had decided.
    seconds
        No further pair is begun that would take longer in all, kept registrations counted; two are compared in any case.
    clean
        Measure again what is kept.
    write
        Whether to write the plans.
    on_progress
        Called with (done, total, what).

    Returns
    -------
    RegistrationPlans
        With the table in ``tuning``.

    Raises
    ------
    PlansError
        If the dataset is not planned for registration, has nothing to rank by, or no pair could be registered.
    NnRegError
        If a file cannot be read.
    """
    name = workspace.dataset_name(dataset)
    raw, folder = RawDataset.open(workspace.raw / name), workspace.preprocessed / name
    read = read_plans(folder, plans_name, name)
    if not isinstance(read, RegistrationPlans):
        raise PlansError(f"{folder / plans_name}.json: plans for {read.task}, only registration can be tuned. Name other plans with -plans_name.")
    plans = before_tuning(read)
    fingerprint = read_fingerprint(raw, folder)
    measure, pairs = _measurable(raw, fingerprint, plans.optimisation)
    networks = trained_networks(workspace.results / name, plans, FIGURES[measure], pairs)
    if networks:
        # networks are known on the pairs they were validated on, and on no other
        pairs = [pair for pair in pairs if pair.name in networks[0].figures]
    tries = alternatives(plans.optimisation, modality_relation(fingerprint).value)
    bench = _Bench(raw, measure, folder / FOLDER, clean)
    found = bench.run(sampled_pairs(pairs, fingerprint), tries, seconds, on_progress)
    if not found:
        raise PlansError(f"{name}: no training pair could be registered by any of {len(tries)} alternatives. Look at it with nnreg_verify_dataset.")
    differing = {key: changes(plans.optimisation, settings) for key, settings in tries.items()}
    result = tuned(plans, _table(raw, plans, measure, found, differing, networks))
    if write:
        result.write(folder / f"{plans_name}.json")
    return result


def _table(
    raw: RawDataset,
    plans: RegistrationPlans,
    measure: Measure,
    found: Mapping[str, Mapping[str, Measured]],
    differing: Mapping[str, dict[str, str]],
    networks: Sequence[Trained],
) -> Tuning:
    """What was measured, ranked; networks join where they are known on every compared pair."""
    compared = tuple(next(iter(found.values())))
    scores = [_score(key, list(rows.values()), measure, differing[key]) for key, rows in found.items()]
    scores += [_score_of_network(network, compared, measure) for network in networks if all(pair in network.figures for pair in compared)]
    return Tuning(
        measure=measure,
        pairs=compared,
        files=str(pairs_digest(raw, compared)),
        scores=ranked(scores, higher_is_better=measure == "dice"),
        planned=plans.optimisation,
        planned_recommended=plans.recommended,
        planned_because=plans.because.get("recommended", "set by hand"),
    )


def _measurable(raw: RawDataset, fingerprint: Fingerprint, settings: Optimisation) -> tuple[Measure, list[Pair]]:
    """What accuracy is measured by, and the training pairs that have it: what most pairs have, of two equal ones the keypoints; never what guides."""
    images, pairs = fingerprint.images, raw.pairs()
    by: dict[Measure, list[Pair]] = {
        "keypoint_mm": [pair for pair in pairs if images[pair.fixed].keypoints and images[pair.fixed].keypoints == images[pair.moving].keypoints],
        "dice": [pair for pair in pairs if images[pair.fixed].labels and images[pair.moving].labels],
    }
    guides: dict[Measure, bool] = {"keypoint_mm": settings.use_keypoints, "dice": settings.use_labels}
    usable = {measure: found for measure, found in by.items() if found and not guides[measure]}
    if not usable:
        if any(by.values()):
            raise PlansError(f"{raw.name}: nothing to rank by: what its training pairs have guides the registration (optimisation.use_labels, use_keypoints).")
        raise PlansError(
            f"{raw.name}: nothing to rank by: no training pair has labels or keypoints in both cases. "
            "Add labelsTr or keypointsTr and run nnreg_extract_fingerprint; the plans are left as they are."
        )
    measure = max(usable, key=lambda key: len(usable[key]))
    return measure, usable[measure]


@dataclass(frozen=True)
class Measured:
    """One alternative on one pair.

    Attributes
    ----------
    accuracy, sdlogj, folding_percent
        None where they do not exist.
    seconds, spent
        What registering took, and registering and measuring together.
    failure
        Why the pair could not be registered.
    """

    schema_version: int
    files: str
    accuracy: float | None
    sdlogj: float | None
    folding_percent: float | None
    seconds: float
    spent: float
    failure: str = ""


class _Bench:
    """Measures alternatives pair by pair, and keeps each measurement."""

    def __init__(self, raw: RawDataset, measure: Measure, folder: Path, clean: bool) -> None:
        self.raw, self.measure, self.folder, self.clean = raw, measure, folder, clean

    def run(self, pairs: Sequence[Pair], tries: Mapping[str, Optimisation], seconds: float, on_progress: Progress) -> dict[str, dict[str, Measured]]:
        """Alternative to pair to what was measured; pairs that none could register, or that have no accuracy, are left out."""
        found: dict[str, dict[str, Measured]] = {key: {} for key in tries}
        spent, total = 0.0, len(pairs) * len(tries)
        for done, pair in enumerate(pairs):
            # kept measurements count too: an interrupted run ends with the same pairs as one that was not
            if done >= FEWEST and spent + spent / done > seconds:
                break
            cases = _Cases(self.raw, pair)
            for number, (key, settings) in enumerate(tries.items()):
                on_progress(done * len(tries) + number, total, f"{pair.name}, {key}")
                found[key][pair.name] = self._one(pair, settings, cases)
                spent += found[key][pair.name].spent
            if all(found[key][pair.name].accuracy is None for key in tries):
                for rows in found.values():
                    del rows[pair.name]
        compared = len(next(iter(found.values())))
        on_progress(total, total, f"{compared} pairs")
        return found if compared else {}

    def _one(self, pair: Pair, settings: Optimisation, cases: _Cases) -> Measured:
        files = files_digest(self.raw, (pair.fixed, pair.moving))
        path = self.folder / pair.name / f"{self._digest(settings)}.json"
        if path.is_file() and not self.clean:
            kept = read_json(path, PlansError)
            if isinstance(kept, dict) and kept.get("schema_version") == SCHEMA_VERSION and kept.get("files") == files:
                return from_mapping(Measured, kept, where=str(path), error=PlansError)
        measured = self._measured(pair, settings, cases, files)
        write_json(path, to_mapping(measured))
        return measured

    def _measured(self, pair: Pair, settings: Optimisation, cases: _Cases, files: str) -> Measured:
        fixed, moving = cases.case(pair.fixed), cases.case(pair.moving)
        started = time.perf_counter()
        try:
            found = run_engine(pair, cases, settings, preset=settings.preset)
        except RegistrationError as error:
            spent = round(time.perf_counter() - started, 3)
            return Measured(SCHEMA_VERSION, files, None, None, None, spent, spent, str(error))
        seconds = round(time.perf_counter() - started, 3)
        labels = self.raw.spec.foreground or None
        measured = evaluate_pair(fixed=fixed, moving=moving, transform=found.transform, aligned=found.start, labels=labels, surface=False, additional=False)
        figures = measured["metrics"]
        accuracy, sdlogj, folding = (_finite(figures.get(name)) for name in (FIGURES[self.measure], "sdlogj", "folding_percent"))
        return Measured(SCHEMA_VERSION, files, accuracy, sdlogj, folding, seconds, round(time.perf_counter() - started, 3))

    def _digest(self, settings: Optimisation) -> str:
        """Of all that the result depends on besides the files."""
        content = {key: value for key, value in to_mapping(settings).items() if key not in ("because", "refinement")}
        content |= {"measure": self.measure, "labels": list(self.raw.spec.foreground)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class _Cases:
    """The two cases of a pair, read when first asked for, once for all alternatives."""

    def __init__(self, raw: RawDataset, pair: Pair) -> None:
        self.raw, self.names, self.read = raw, (pair.fixed, pair.moving), dict[str, Case]()

    def image(self, case: str) -> Image:
        """The native image."""
        return self.case(case).image

    def labels(self, case: str) -> Image | None:
        """Its labels."""
        return self.case(case).labels

    def mask(self, case: str) -> Image | None:
        """Its mask."""
        return self.case(case).mask

    def guide(self, case: str) -> Image | None:
        """None: what is compared is what the dataset says."""
        return None

    def keypoints_voxel(self, case: str) -> npt.NDArray[np.float64] | None:
        """Its keypoints."""
        return self.case(case).keypoints_voxel

    def case(self, name: str) -> Case:
        """All that is known of it."""
        if name not in self.read:
            self.read[name] = self.raw.read_case(name)
        return self.read[name]


def _score(name: str, rows: Sequence[Measured], measure: Measure, changed: dict[str, str]) -> Score:
    failed = [row for row in rows if row.accuracy is None]
    problem = "" if not failed else f"{len(failed)} of {len(rows)} pairs failed: {failed[0].failure or 'nothing could be measured'}"
    figures = [{FIGURES[measure]: row.accuracy, "sdlogj": row.sdlogj, "folding_percent": row.folding_percent, "seconds": row.seconds} for row in rows]
    return dataclasses.replace(_joined(name, figures, measure), changes=changed, problem=problem)


def _score_of_network(network: Trained, pairs: Sequence[str], measure: Measure) -> Score:
    return dataclasses.replace(_joined(network.name, [network.figures[pair] for pair in pairs], measure), configuration=network.configuration)


def _joined(name: str, figures: Sequence[Mapping[str, float | None]], measure: Measure) -> Score:
    """Pairs joined, as the evaluation joins them."""
    accuracy, sdlogj, folding, seconds = (
        [value for row in figures if (value := row.get(key)) is not None] for key in (FIGURES[measure], "sdlogj", "folding_percent", "seconds")
    )
    return Score(
        name=name,
        accuracy=float(np.mean(accuracy)) if accuracy else None,
        robust30=_finite(worst_mean(FIGURES[measure], accuracy)),
        sdlogj=float(np.mean(sdlogj)) if sdlogj else None,
        folding_percent=max(folding, default=None),
        seconds=float(np.median(seconds)) if seconds else None,
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
