"""Measure a few training pairs with the registration engine, for the planner.

Lies above planning because it runs the engine; everything heavy is imported when a pair is measured.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnreg.errors import PlansError, RegistrationError
from nnreg.files import read_json, write_json
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.pair_fingerprint import PairFailure, PairFingerprint, PairMeasurement
from nnreg.progress import Progress
from nnreg.typed import from_mapping, to_mapping

if TYPE_CHECKING:
    from nnreg.dataset import Pair, RawDataset

SCHEMA_VERSION = 4
FOLDER = "pair_measurements"
BUDGET_SECONDS = 60.0
FEWEST, MOST = 3, 15  # pairs: ConvexAdam's own configuration search looks at 15 [evidence: ConvexAdam 2024]
# processor seconds of a pair, and of each million of its voxels: with every similarity tried, and without; about what two cores of a laptop of 2023 take
WITH_TRIALS, WITHOUT = (1.0, 8.0), (0.4, 1.5)
TRIED = 6  # pairs that every similarity is tried on: the planner needs a few to agree
POOL = 2000  # pairs that the sample is drawn from, at most: a thousand subjects have a million
SEED = 1234


def measure_pairs(
    raw: RawDataset,
    fingerprint: Fingerprint,
    folder: Path,
    *,
    seconds: float = BUDGET_SECONDS,
    clean: bool = False,
    on_progress: Progress = lambda done, total, what: None,
) -> PairFingerprint:
    """Measure a seeded sample of the training pairs.

    Each pair is kept in ``pair_measurements/`` of `folder` as soon as it is done, and measured again only when a file of it has changed.

    Parameters
    ----------
    raw, fingerprint
        The dataset and what was measured of its images.
    folder
        Of the dataset among the preprocessed ones.
    seconds
        For which as many pairs are measured as their sizes allow, by fixed rates and not by a clock, so that every machine plans the same. Three are
        measured in any case.
    clean
        Measure again in any case.

    Raises
    ------
    NnRegError
        If a file cannot be read. A pair that cannot be registered is no error: it is counted.
    """
    sample = sampled_pairs(raw.pairs(), fingerprint)
    measured: list[PairMeasurement] = []
    failed: list[PairFailure] = []
    sample = sample[: affordable([_voxels(fingerprint, pair) for pair in sample], seconds)]
    for done, pair in enumerate(sample):
        on_progress(done, len(sample), pair.name)
        found = _one(raw, fingerprint, pair, folder / FOLDER / f"{pair.name}.json", clean=clean, trials=done < TRIED)
        if isinstance(found, PairMeasurement):
            measured.append(found)
        else:
            failed.append(found)
    on_progress(len(sample), len(sample), f"{len(measured)} pairs")
    return PairFingerprint(tuple(measured), tuple(failed), seconds)


def affordable(voxels: Sequence[int], seconds: float) -> int:
    """How many of the pairs, so many voxels large and in this order, are measured in so many seconds; FEWEST in any case.

    Examples
    --------
    >>> affordable([63_000] * 15, 60.0), affordable([1_500_000] * 15, 60.0)
    (15, 4)
    """
    spent = 0.0
    for done, count in enumerate(voxels):
        fixed, rate = WITH_TRIALS if done < TRIED else WITHOUT
        spent += fixed + rate * count / 1e6
        if done >= FEWEST and spent > seconds:
            return done
    return len(voxels)


def _voxels(fingerprint: Fingerprint, pair: Pair) -> int:
    """Of the larger image, as it is measured: large ones are pooled."""
    from nnreg.preprocessing.registration.pilot import LARGEST_COPY

    return min(LARGEST_COPY, max(prod(fingerprint.images[case].shape) for case in (pair.fixed, pair.moving)))


def sampled_pairs(pairs: Sequence[Pair], fingerprint: Fingerprint) -> list[Pair]:
    """Pairs in the order they are measured: drawn at random, those whose subjects were seen least first."""
    rng = np.random.default_rng(SEED)
    pool = [pairs[index] for index in rng.permutation(len(pairs))[:POOL]]
    seen: dict[str, int] = {}
    result: list[Pair] = []
    while pool and len(result) < MOST:
        chosen = min(pool, key=lambda pair: sum(seen.get(fingerprint.images[case].subject, 0) for case in (pair.fixed, pair.moving)))
        pool = [pair for pair in pool if pair not in (chosen, chosen.swapped)]
        result.append(chosen)
        for case in (chosen.fixed, chosen.moving):
            subject = fingerprint.images[case].subject
            seen[subject] = seen.get(subject, 0) + 1
    return result


def files_digest(raw: RawDataset, cases: Sequence[str]) -> str:
    """Of the content of every file of the cases."""
    return hashlib.sha256(" ".join(raw.digest(case) for case in cases).encode()).hexdigest()[:16]


def pairs_digest(raw: RawDataset, names: Sequence[str]) -> str | None:
    """Digest of the files of training pairs, by their names; None if one of them is no training pair."""
    known = {pair.name: pair for pair in raw.pairs()}
    if not all(name in known for name in names):
        return None
    return files_digest(raw, sorted({case for name in names for case in (known[name].fixed, known[name].moving)}))


def pairs_still_true(fingerprint: Fingerprint, raw: RawDataset) -> bool:
    """Whether the pairs of a fingerprint were measured on the files as they are now."""
    if fingerprint.pairs is None:
        return False
    found = fingerprint.pairs.all
    return bool(found) and all(pair.files == files_digest(raw, (pair.fixed, pair.moving)) for pair in found)


@dataclass(frozen=True)
class _Kept:
    """A kept measurement as JSON: one of the two."""

    schema_version: int
    measured: PairMeasurement | None = None
    failed: PairFailure | None = None


def _one(raw: RawDataset, fingerprint: Fingerprint, pair: Pair, path: Path, *, clean: bool, trials: bool) -> PairMeasurement | PairFailure:
    from nnreg.preprocessing.registration.pilot import measure_pair

    files = files_digest(raw, (pair.fixed, pair.moving))
    kept = None if clean else _kept(path)
    if kept is not None and kept.files == files:
        return kept
    started = time.thread_time()
    try:
        measured = measure_pair(raw, fingerprint, pair, files, trials=trials)
        write_json(path, to_mapping(_Kept(SCHEMA_VERSION, measured=measured)))
        return measured
    except RegistrationError as error:
        failed = PairFailure(pair.fixed, pair.moving, files, str(error), round(time.thread_time() - started, 3))
        write_json(path, to_mapping(_Kept(SCHEMA_VERSION, failed=failed)))
        return failed


def _kept(path: Path) -> PairMeasurement | PairFailure | None:
    if not path.is_file():
        return None
    content = read_json(path, PlansError)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        return None
    kept = from_mapping(_Kept, content, where=str(path), error=PlansError)
    return kept.measured or kept.failed
