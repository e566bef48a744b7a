"""Python blocks of the pages run, in a folder with tiny data under the names that the pages use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import anatomy, spaces, write_case, write_dataset

from nnreg.geometry import Space, Transform
from nnreg.geometry.itk import write_itk
from nnreg.imageio import read_image, write_image
from nnreg.imageio.itk_files import write_series
from nnreg.losses import LOSSES
from nnreg.training.configs import TRAINER_CONFIGS

PAGES = Path(__file__).parents[2] / "documentation"
SHAPE = (20, 24, 22)
PLANE, SOLID = Space.plain((26, 28), (1.5, 1.5)), Space.plain(SHAPE, (1.5, 1.5, 1.5))
Names = dict[str, Any]


def nothing() -> Names:
    return {}


def pair() -> Names:
    """Two images with labels, and what a registration of them leaves."""
    for seed, (name, space) in enumerate(spaces(SHAPE, ["fixed", "moving"]).items()):
        image, labels = anatomy(space, seed)
        write_image(Path(f"{name}.nii.gz"), image, space)
        for path in (f"{name}_labels.nii.gz", "labels.nii.gz"):
            write_image(Path(path), labels, space)
    fixed, moving = (read_image(Path(f"{name}.nii.gz")) for name in ("fixed", "moving"))
    transform = Transform.affine(np.array([[1.0, 0, 0, 2], [0, 1, 0, -1], [0, 0, 1, 0], [0, 0, 0, 1]]))
    Path("registered/A__B").mkdir(parents=True)
    write_itk("registered/A__B/transform.h5", transform)
    return {"fixed": fixed, "moving": moving, "warped": fixed, "transform": transform, "fixed_points": np.zeros((2, 3))}


def network() -> Names:
    import torch

    images = {name: torch.zeros(1, 1, 8, 8, 8) for name in ("fixed", "moving")}
    return {"network": lambda fixed, moving: [(fixed - moving).expand(-1, 3, -1, -1, -1)], **images}


def people() -> Names:
    for seed, (name, space) in enumerate(spaces(SHAPE, ["anna", "bert", "cleo", "finn", "gwen", "hans", "ida", "jan", "kim", "lea", "dora", "emil"]).items()):
        write_image(Path(f"{name}.nii.gz"), anatomy(space, seed)[0], space)
    return {}


def group() -> Names:
    for seed, name in enumerate("abc"):
        write_case(Path(), name, PLANE, seed)
    return {}


def atlases() -> Names:
    for seed, name in enumerate("abc"):
        write_case(Path("atlases"), name, PLANE, seed)
    write_case(Path(), "new", PLANE, 9, suffix="Ts")
    return {}


def visits() -> Names:
    for seed, visit in enumerate("ab"):
        write_case(Path(), f"s01_{visit}", PLANE, seed)
    Path("imagesTr").rename("VISITS")
    return {}


def series() -> Names:
    image, labels = anatomy(SOLID, 1)
    frames = np.concatenate([np.roll(image, shift, axis=-1) for shift in (0, 1, 0, 1)])
    for name in ("bold", "cine"):
        write_series(Path(f"{name}.nii.gz"), frames, SOLID, 1.0)
    write_image(Path("ed.nii.gz"), labels, SOLID)
    return {}


def raw_brains() -> Names:
    write_dataset(Path("my_workspace/nnReg_raw/Dataset001_Brains"), spaces((22, 26), list("abcde")))
    return {}


def planned_segmentation() -> Names:
    from nnreg.cli import plan_and_preprocess

    raw = write_dataset(Path("nnReg_workspace/nnReg_raw/Dataset004_Hippocampus"), spaces((32, 44, 34), list("abcde")), labels={"background": 0, "head": 1})
    for path in (raw / "labelsTr").iterdir():
        labels = read_image(path)
        write_image(path, (labels.array > 0).astype(np.uint8), labels.space)
    assert plan_and_preprocess.main(["-d", "4", "--task", "dense_prediction", "-np", "1", "--no_pbar"]) == 0
    return {}


RUN: dict[str, Callable[[], Names]] = {
    "dataset_format.md 0": nothing,
    "evaluation.md 0": pair,
    **{f"how_to_add_a_{what}.md 0": nothing for what in ("format", "metric", "network", "rule", "similarity")},
    "licences.md 0": nothing,
    "losses.md 0": nothing,
    "networks.md 0": network,
    "python.md 0": pair,
    "registration_engine.md 0": pair,
    "training.md 0": nothing,
    "training.md 1": nothing,
    "training_options.md 0": nothing,
    "transforms.md 0": pair,
    "transforms.md 1": pair,
}
SLOW: dict[str, Callable[[], Names]] = {
    "atlases.md 0": atlases,
    "dense_prediction.md 0": planned_segmentation,
    "longitudinal.md 0": visits,
    "planning.md 0": raw_brains,
    "python.md 1": people,
    "series.md 0": series,
    "templates.md 0": group,
}
NOT_RUN = {"cluster.md 0": "asks a queue for machines", "training.md 2": "trains on a GPU"}
SHORTER = (
    ("epochs=50", 'epochs=1, overrides={"iterations_per_epoch": 2, "validation_iterations": 1}'),
    ("(64, 64, 64), num_samples=100", "(16, 16, 16), num_samples=8"),
)


def blocks() -> Iterator[tuple[str, str]]:
    """Page and number of a block, and its text."""
    for page in sorted(PAGES.glob("*.md")):
        for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)):
            yield f"{page.name} {number}", text


BLOCKS = dict(blocks())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, and registries as they were."""
    monkeypatch.chdir(tmp_path)
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnReg_{kind}", raising=False)
    registries = LOSSES, TRAINER_CONFIGS
    before = [set(one) for one in registries]
    yield
    for one, names in zip(registries, before, strict=True):
        for added in set(one) - names:
            del one[added]


def run(block: str, prepare: Callable[[], Names]) -> None:
    names, text = prepare() | {"__name__": "block"}, BLOCKS[block]
    for long, short in SHORTER:
        text = text.replace(long, short)
    exec(compile(text, block, "exec"), names)


@pytest.mark.parametrize("block", RUN)
def test_a_block_runs(block: str) -> None:
    run(block, RUN[block])


@pytest.mark.slow
@pytest.mark.parametrize("block", SLOW)
def test_a_long_block_runs(block: str) -> None:
    run(block, SLOW[block])


def test_every_block_is_run_or_says_why_not() -> None:
    assert set(BLOCKS) == {*RUN, *SLOW, *NOT_RUN}
