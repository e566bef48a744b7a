"""Fixtures shared by all rooms: awkward shapes, smooth fields, small spaces, real images where they are at hand."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import Tiny

from nnreg.geometry import Space, resize_field

ODD_SHAPES = [(17, 24), (9, 31), (11, 14, 9), (8, 21, 13)]
PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Handing out work of a few voxels costs more than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``install(package, code, group, *points)``: a package where pip would put it, with its lines ``name = package:attribute`` of an entry point group."""
    packages: list[str] = []

    def add(package: str, code: str, group: str, *points: str) -> None:
        site = tmp_path / f"site_{package}"
        metadata = site / f"{package}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{package}.py").write_text(code, encoding="utf-8")
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *points, ""]))
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        packages.append(package)

    yield add
    for package in packages:
        sys.modules.pop(package, None)


@pytest.fixture(scope="session")
def page_code() -> Callable[[str], str]:
    """``page_code("how_to_add_a_format")``: the first Python example of a page of the documentation."""

    def read(page: str) -> str:
        code = re.search(r"```python\n(.*?)```", (PROJECT / "documentation" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
        assert code is not None
        return code[1]

    return read


@pytest.fixture(params=ODD_SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """Shapes in 2D and 3D, never square, odd and even."""
    return request.param


@pytest.fixture
def smooth_field() -> Callable[..., torch.Tensor]:
    """``smooth_field(shape, largest=2.0, seed=0)``: a smooth field (1, ndim, *shape) whose largest component is `largest` voxels."""

    def make(shape: Sequence[int], largest: float = 2.0, seed: int = 0, batch: int = 1) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(batch, len(shape), *(4,) * len(shape), generator=generator)
        field = resize_field(coarse, shape)
        return field * (largest / field.abs().max())

    return make


@pytest.fixture
def rotated_space() -> Callable[..., Space]:
    """``rotated_space(shape, seed)``: anisotropic spacing, shifted origin, oblique direction."""

    def make(shape: Sequence[int], seed: int = 0) -> Space:
        rng = np.random.default_rng(seed)
        n = len(shape)
        direction = np.linalg.qr(np.eye(n) + 0.3 * rng.normal(size=(n, n)))[0]
        return Space(tuple(shape), tuple(rng.uniform(0.7, 2.5, n).tolist()), tuple(rng.uniform(-20, 20, n).tolist()), tuple(direction.ravel().tolist()))

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images: ``nnReg_test_data``, or the folder the project keeps beside its root."""
    folder = Path(os.environ.get("nnReg_test_data") or PROJECT.parent / "shared" / "data")
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real images at {folder}: set nnReg_test_data")
    return folder


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """See :func:`tiny.build_plane`. Only to be read: tests that change something take a copy."""
    return tiny.build_plane(tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """See :func:`tiny.build_flat`. Only to be read."""
    return tiny.build_flat(tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="session")
def solid(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """See :func:`tiny.build_solid`. Only to be read."""
    return tiny.build_solid(tmp_path_factory.mktemp("solid"))
