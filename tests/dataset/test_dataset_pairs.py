"""Pairs by policy, subjects, splits."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from nnreg.dataset import DatasetSpec, Pair, RawDataset, fold_cases, load_or_make_splits, make_splits, pairs_among, pairs_within
from nnreg.dataset.splits import available_folds
from nnreg.errors import DatasetError

ORACLE = json.loads((Path(__file__).parent / "data" / "nnunet_splits.json").read_text())["splits"]


def spec(**changes) -> DatasetSpec:
    return DatasetSpec(channel_names={"0": "T1"}, numTraining=4, file_ending=".nii.gz", **changes)


def dataset(cases, **changes) -> RawDataset:
    return RawDataset(Path("Dataset001_A"), spec(**changes), cases, ())


def own(names):
    return {name: name for name in names}


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_two_pairs_of_one_name_are_refused():
    pairs = [Pair("s1", "t2__x"), Pair("s1__t2", "x")]
    with pytest.raises(DatasetError, match="s1 with t2__x and s1__t2 with x are both called s1__t2__x"):
        pairs_among(spec(pairing="pairs", pairs=tuple(pairs)), ["s1", "s1__t2", "t2__x", "x"])
    assert pairs_among(spec(pairing="pairs", pairs=tuple(pairs[:1])), ["s1", "t2__x"]) == (pairs[0],)


def test_all_pairs_every_two_different_subjects_both_ways():
    cases = ["a1", "a2", "b1", "c1"]
    pairs = pairs_among(spec(groups={"a1": "a", "a2": "a"}), cases)
    assert set(pairs) == {Pair(f, m) for f, m in product(cases, cases) if f[0] != m[0]}
    assert {pair.swapped for pair in pairs} == set(pairs)


def test_of_very_many_cases_pairs_are_drawn(monkeypatch):
    monkeypatch.setattr("nnreg.dataset.pairs.MOST_OF_ALL", 40)
    names = [f"c{number:02d}" for number in range(20)]
    drawn = pairs_among(spec(pairing="all", groups={"c00": "s", "c01": "s"}), names)
    assert 38 <= len(drawn) <= 40  # two pairs of one subject may be among the drawn
    assert len(set(drawn)) == len(drawn)
    assert list(drawn) == sorted(drawn, key=lambda pair: (pair.fixed, pair.moving))
    assert all(pair.fixed != pair.moving and {pair.fixed, pair.moving} != {"c00", "c01"} for pair in drawn)
    assert drawn == pairs_among(spec(pairing="all", groups={"c00": "s", "c01": "s"}), names[::-1])
    assert len({side for pair in drawn for side in (pair.fixed, pair.moving)}) > 15
    assert len(pairs_among(spec(pairing="all"), names[:6])) == 30


def test_ten_thousand_cases_make_no_hundred_million_pairs():
    names = [f"c{number:05d}" for number in range(10_000)]
    assert len(pairs_among(spec(pairing="all"), names)) == 250_000
    groups = {name: name[:5] for name in names}
    assert len(pairs_among(spec(pairing="groups", groups=groups), names)) == 10_000 * 9


def test_atlas_is_fixed_everywhere():
    pairs = pairs_among(spec(pairing="atlas", atlas="b"), ["a", "b", "c"])
    assert pairs == (Pair("b", "a"), Pair("b", "c"))
    assert pairs_among(spec(pairing="atlas", atlas="b"), ["a", "c"]) == ()


def test_groups_pair_only_within_a_subject():
    groups = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b"}
    pairs = pairs_among(spec(pairing="groups", groups=groups), [*groups, "loner"])
    assert len(pairs) == 6 + 2
    assert all(groups[pair.fixed] == groups[pair.moving] for pair in pairs)


def test_listed_pairs_keep_their_order_and_both_sides_must_be_there():
    listed = (Pair("c", "a"), Pair("a", "b"))
    assert pairs_among(spec(pairing="pairs", pairs=listed), ["a", "b", "c"]) == listed
    assert pairs_within(listed, ["a", "b"]) == (Pair("a", "b"),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairing": "pairs", "pairs": (Pair("case_a", "case_x"),)}, "pairs[0].moving names 'case_x', which is no case; did you mean"),
        ({"pairing": "atlas", "atlas": "case_x"}, "atlas names 'case_x'"),
        ({"pairing": "groups", "groups": {"case_x": "s"}}, "groups names 'case_x'"),
    ],
)
def test_a_name_that_is_no_case_is_named(changes, said):
    with pytest.raises(DatasetError) as error:
        dataset(["case_a", "case_b"], **changes).pairs()
    assert said in str(error.value)
    assert str(error.value).startswith(str(Path("Dataset001_A/dataset.json")))


# -- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["5", "10", "13"])
def test_splits_equal_nnunets(count):
    assert make_splits(own(f"case_{i:03d}" for i in range(int(count)))) == ORACLE[count]


def test_splits_of_pairs_equal_nnunets_splits_of_subjects():
    subjects = {f"pair_{i:03d}_{role}": f"pair_{i:03d}" for i in range(12) for role in ("fixed", "moving")}
    for ours, theirs in zip(make_splits(subjects), ORACLE["pairs"], strict=True):
        for side in ("train", "val"):
            assert ours[side] == sorted(f"{name}_{role}" for name in theirs[side] for role in ("fixed", "moving"))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 17])
def test_every_subject_is_held_out_once_and_never_cut_apart(count):
    subjects = {f"s{i}_{j}": f"s{i}" for i in range(count) for j in range(1 + i % 3)}
    splits = make_splits(subjects)
    assert len(splits) == min(5, count)
    assert sorted(case for split in splits for case in split["val"]) == sorted(subjects)
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(subjects)
        assert not {subjects[case] for case in split["train"]} & {subjects[case] for case in split["val"]}


def test_splits_do_not_depend_on_the_order_of_the_cases():
    names = [f"case_{i}" for i in range(11)]
    assert make_splits(own(names)) == make_splits(own(reversed(names)))


def test_the_atlas_is_on_both_sides_of_every_fold():
    splits = make_splits(own(["atlas", *"abcdef"]), always="atlas")
    assert all("atlas" in split["train"] and "atlas" in split["val"] for split in splits)
    assert sorted(case for split in splits for case in split["val"] if case != "atlas") == list("abcdef")


def test_one_subject_is_both_sides():
    assert make_splits({"a": "s", "b": "s"}) == [{"train": ["a", "b"], "val": ["a", "b"]}]
    assert make_splits(own(["atlas", "a"]), always="atlas") == [{"train": ["a", "atlas"], "val": ["a", "atlas"]}]
    with pytest.raises(DatasetError, match="no case to split"):
        make_splits({})


def test_listed_pairs_keep_connected_cases_together():
    pairs = tuple(Pair(f"{i}_f", f"{i}_m") for i in range(6))
    raw = dataset([case for pair in pairs for case in (pair.fixed, pair.moving)], pairing="pairs", pairs=pairs)
    splits = make_splits({case: raw.subject(case) for case in raw.cases})
    held_out = [pairs_within(pairs, split["val"]) for split in splits]
    assert sorted(pair.name for fold in held_out for pair in fold) == sorted(pair.name for pair in pairs)


def test_a_list_that_connects_everything_is_split_by_case():
    pairs = (Pair("a", "b"), Pair("b", "c"), Pair("c", "d"))
    raw = dataset("abcd", pairing="pairs", pairs=pairs)
    assert {case: raw.subject(case) for case in raw.cases} == own("abcd")
    single = dataset("ab", pairing="pairs", pairs=(Pair("a", "b"),), groups={"a": "s", "b": "s"})
    assert {single.subject(case) for case in "ab"} == {"s"}


def test_a_splits_file_is_honoured_made_once_and_checked(tmp_path):
    raw, path, notes = dataset("abc"), tmp_path / "splits_final.json", []
    made = load_or_make_splits(path, raw, on_note=notes.append)
    assert json.loads(path.read_text()) == made
    assert "3 folds instead of 5" in notes[0]
    mine = [{"train": ["a"], "val": ["b", "c"]}]
    path.write_text(json.dumps(mine))
    assert load_or_make_splits(path, raw, on_note=notes.append) == mine
    assert len(notes) == 1
    for content, said in [
        ([{"train": ["a"], "val": ["x"]}], "fold 0 names 'x'"),
        ([{"train": ["a"]}], "fold 0 is not"),
        ([{"train": ["a"], "val": []}], "at least one case"),
        ({}, "expected a list"),
    ]:
        path.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match=r"splits_final\.json") as error:
            load_or_make_splits(path, raw)
        assert said in str(error.value)


def test_a_fold_that_does_not_exist_is_named():
    splits = make_splits(own("abcdef"))
    assert available_folds(splits) == [0, 1, 2, 3, 4]
    assert fold_cases(splits, 2) == fold_cases(splits, "2") == (splits[2]["train"], splits[2]["val"])
    assert fold_cases(splits, "all") == (list("abcdef"), list("abcdef"))
    for fold in (5, "7", "first", -1):
        with pytest.raises(DatasetError, match="has no fold") as error:
            fold_cases(splits, fold)
        assert "0, 1, 2, 3, 4, or 'all'" in str(error.value)
