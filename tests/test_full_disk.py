"""A file that cannot grow, of every writer: one line, and nothing under its name."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nnreg.cli.common import Parser, run
from nnreg.errors import NnRegError
from nnreg.files import write_text
from nnreg.geometry import FieldMap, Space, Transform
from nnreg.geometry.transform_files import write_transform
from nnreg.imageio import write_image
from nnreg.inference.dense_prediction.probabilities import write_probabilities
from nnreg.preprocessing.dense_prediction.locations import write_locations
from nnreg.preprocessing.registration.storage import create_array, write_array
from nnreg.training.trainer.checkpoint import save_checkpoint

SPACE = Space.plain((20, 24, 28), (2.0, 1.5, 1.0))
NOISE = np.random.default_rng(0).normal(size=(3, *SPACE.shape)).astype(np.float32)
FIELD = Transform((FieldMap(NOISE, SPACE),), 3)
PLANE = np.random.default_rng(1).integers(0, 255, (1, 300, 400), np.uint8)


def image(path: Path) -> None:
    write_image(path, NOISE[:1], SPACE)


def transform(path: Path) -> None:
    write_transform(path, FIELD, fixed=SPACE)


def other(form: str) -> Callable[[Path], None]:
    return lambda path: write_transform(path, FIELD, form=form, fixed=SPACE) and None


def boxes(path: Path) -> None:
    with create_array(path, NOISE.shape, np.float32, NOISE.shape[1:], 0) as array:
        array[:] = NOISE


WRITERS: dict[str, Callable[[Path], object]] = {
    **{f"image{ending}": image for ending in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".npy", ".npz", ".tif")},
    **{f"field{ending}": transform for ending in (".nii", ".nii.gz", ".mha", ".nrrd", ".tfm", ".h5")},
    "picture.png": lambda path: write_image(path, PLANE, Space.plain((300, 400))),
    "learn2reg.nii.gz": other("learn2reg"),
    "fsl.nii.gz": other("fsl"),
    "spm.nii": other("spm"),
    "x5.x5": other("x5"),
    "array.b2nd": lambda path: write_array(path, NOISE),
    "boxes.b2nd": boxes,
    "weights.pth": lambda path: save_checkpoint(path, {"network_weights": {"a": torch.from_numpy(NOISE)}, "init": {}}),
    "a_locations.npz": lambda path: write_locations(path, {1: np.arange(30_000).reshape(-1, 3)}),
    "probabilities.npz": lambda path: write_probabilities(path, NOISE, NOISE.shape),
    "table.csv": lambda path: write_text(path, "1,2,3\n" * 20_000),
}


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: what a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_what_does_not_fit_is_told_and_not_there(tmp_path: Path, name: str) -> None:
    with files_up_to(20_000), pytest.raises(NnRegError, match=r"cannot be written \((File too large|No space left on device)\)") as told:
        WRITERS[name](tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [1, 400])
@pytest.mark.parametrize("name", ["image.nii", "image.npy", "field.tfm", "spm.nii"])
def test_the_last_bytes_are_missed_too(tmp_path: Path, name: str, missing: int) -> None:
    """Of these numpy and ITK say nothing."""
    WRITERS[name](tmp_path / name)
    room = (tmp_path / name).stat().st_size - missing
    (tmp_path / name).unlink()
    with files_up_to(room), pytest.raises(NnRegError, match="cannot be written"):
        WRITERS[name](tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("form", ["itk", "x5"])
def test_hdf5_does_not_end_the_process_wherever_the_disk_is_full(tmp_path: Path, form: str) -> None:
    """The library crashes when it closes a file whose last bytes found no room: not in the middle of large data, where the test above is."""
    ending = "h5" if form == "itk" else "x5"
    write_transform(tmp_path / f"whole.{ending}", FIELD, form=form, fixed=SPACE, moving=SPACE)
    size = (tmp_path / f"whole.{ending}").stat().st_size
    for room in (0, 90, 700, 2500, 7000, size // 2, size - 3000, size - 100, size - 1):
        with files_up_to(room), pytest.raises(NnRegError, match="cannot be written"):
            write_transform(tmp_path / f"a.{ending}", FIELD, form=form, fixed=SPACE, moving=SPACE)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_command_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_up_to(20_000):
        code = run(lambda options: transform(tmp_path / "field.nii.gz"), Parser("nnreg_test", ""), [])
    told = capsys.readouterr().err
    assert code == 2
    assert told.count("\n") == 1
    assert "field.nii.gz: cannot be written" in told


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (MemoryError(), "memory"),
        (SystemError("error return without exception, bad_alloc"), "memory"),
        (OSError(28, "No space left on device", "log"), "log: No space"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_no_command_ends_with_a_traceback(capsys: pytest.CaptureFixture[str], failure: Exception, word: str) -> None:
    def work(options: object) -> None:
        raise failure

    assert run(work, Parser("nnreg_test", ""), []) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert word in told
