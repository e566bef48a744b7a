"""Pairs of cases: which there are under a pairing policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np

from nnreg.dataset.pair import Pair
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import DatasetError, did_you_mean

MOST_OF_ALL = 250_000  # pairs under pairing ``all``, those of 500 cases: 10,000 cases have a hundred million, more than any training sees


def pairs_among(spec: DatasetSpec, cases: Collection[str]) -> tuple[Pair, ...]:
    """Pairs of the dataset's policy whose both sides are in `cases`.

    Parameters
    ----------
    spec
        Says the policy; see :class:`nnreg.dataset.spec.DatasetSpec`.
    cases
        Any cases: those of a fold, or new ones.

    Returns
    -------
    tuple of Pair
        In the order of the names, or as listed. Under pairing ``all``, of more than 500 cases MOST_OF_ALL pairs, drawn at random and always the same.

    Raises
    ------
    DatasetError
        If two pairs would share one folder.
    """
    pairs = _pairs_among(spec, sorted(set(cases)))
    check_pair_names(pairs)
    return pairs


def _pairs_among(spec: DatasetSpec, names: Sequence[str]) -> tuple[Pair, ...]:
    if spec.pairing == "pairs":
        return pairs_within(spec.pairs, names)
    if spec.pairing == "atlas":
        return tuple(Pair(str(spec.atlas), case) for case in names if case != spec.atlas) if spec.atlas in names else ()
    if spec.pairing == "groups":
        members: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if name in spec.groups:
                members[spec.groups[name]].append(name)
        return tuple(Pair(a, b) for a in names if a in spec.groups for b in members[spec.groups[a]] if a != b)
    return tuple(Pair(a, b) for a, b in _any_two(names) if spec.groups.get(a, a) != spec.groups.get(b, b))


def too_many(cases: Collection[str]) -> bool:
    """Whether so many cases form more pairs under pairing ``all`` than are looked at."""
    return len(cases) * (len(cases) - 1) > MOST_OF_ALL


def _any_two(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Two different names in either order: all that there are, or MOST_OF_ALL drawn with a fixed seed, in their order."""
    if not too_many(names):
        yield from permutations(names, 2)
        return
    count = len(names) * (len(names) - 1)
    drawn = np.sort(np.random.default_rng(0).choice(count, MOST_OF_ALL, replace=False))
    first, second = np.divmod(drawn, len(names) - 1)
    for a, b in zip(first.tolist(), (second + (second >= first)).tolist(), strict=True):
        yield names[a], names[b]


def pairs_within(pairs: Iterable[Pair], cases: Collection[str]) -> tuple[Pair, ...]:
    """The pairs whose both sides are in `cases`."""
    inside = set(cases)
    return tuple(pair for pair in pairs if pair.fixed in inside and pair.moving in inside)


def check_pair_names(pairs: Iterable[Pair]) -> None:
    """Refuse pairs that differ but are called alike: ``a`` with ``b__c`` and ``a__b`` with ``c`` would share the folder ``a__b__c``.

    Raises
    ------
    DatasetError
        It names both pairs.
    """
    known: dict[str, Pair] = {}
    for pair in pairs:
        other = known.setdefault(pair.name, pair)
        if other != pair:
            raise DatasetError(
                f"the pairs {other.fixed} with {other.moving} and {pair.fixed} with {pair.moving} are both called {pair.name}: one result would replace "
                "the other. Rename a case so that no name holds two underscores in a row."
            )


def subjects_of(spec: DatasetSpec, cases: Sequence[str]) -> dict[str, str]:
    """The subject of each case: what splits never cut apart.

    `groups` says it. Under pairing ``pairs``, cases that a listed pair connects belong together as well, because a pair counts for
    validation only with both sides; unless the list connects everything, for then there would be nothing to split.
    """
    subjects = {case: spec.groups.get(case, case) for case in cases}
    if spec.pairing != "pairs":
        return subjects
    connected = _connected(subjects, pairs_within(spec.pairs, cases))
    return connected if len(set(connected.values())) > 1 or len(set(subjects.values())) == 1 else subjects


def _connected(subjects: Mapping[str, str], pairs: Iterable[Pair]) -> dict[str, str]:
    """Subjects joined along pairs; each component is called after its first subject in alphabetical order."""
    root = {subject: subject for subject in subjects.values()}

    def find(subject: str) -> str:
        while root[subject] != subject:
            subject = root[subject]
        return subject

    for pair in pairs:
        first, second = sorted((find(subjects[pair.fixed]), find(subjects[pair.moving])))
        root[second] = first
    return {case: find(subject) for case, subject in subjects.items()}


def check_names(spec: DatasetSpec, cases: Collection[str], where: str) -> list[str]:
    """Names in pairs, atlas, groups and modalities that are no case, one sentence each."""
    problems = []
    for i, pair in enumerate(spec.pairs):
        problems += [
            f"{where}: pairs[{i}].{role} names {name!r}, which is no case; {did_you_mean(name, cases)}"
            for role, name in (("fixed", pair.fixed), ("moving", pair.moving))
            if name not in cases
        ]
    if spec.atlas is not None and spec.atlas not in cases:
        problems.append(f"{where}: atlas names {spec.atlas!r}, which is no case; {did_you_mean(spec.atlas, cases)}")
    problems += [f"{where}: groups names {name!r}, which is no case; {did_you_mean(name, cases)}" for name in spec.groups if name not in cases]
    for name, modality in spec.modalities.items():
        plain = [case for case in modality.cases if not any(sign in case for sign in "*?[")]
        problems += [f"{where}: modalities.{name}.cases names {case!r}, which is no case; {did_you_mean(case, cases)}" for case in plain if case not in cases]
    return problems


def require_names(spec: DatasetSpec, cases: Collection[str], where: str) -> None:
    """Raise a DatasetError for the first name that is no case."""
    for problem in check_names(spec, cases, where):
        raise DatasetError(problem)


__all__ = ["Pair", "check_names", "check_pair_names", "pairs_among", "pairs_within", "require_names", "subjects_of", "too_many"]
