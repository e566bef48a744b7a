"""Atlases warped onto an image: each is registered, sampled once and kept on disk, so that one at a time is in memory, and a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import AnyArray, Floats
from nnreg.errors import NnRegError, WriteError
from nnreg.files import atomic_path, content_digest, read_json, write_json
from nnreg.geometry import Space, Transform, resample_image, resample_labels
from nnreg.geometry.itk import write_result
from nnreg.groups.fusion.atlases import Atlas
from nnreg.groups.fusion.blocks import Three, WarpedAtlases
from nnreg.groups.fusion.registrars import Found, Registrar
from nnreg.groups.maps import made_from
from nnreg.groups.members import Member
from nnreg.imageio import Image
from nnreg.parallel import run_all
from nnreg.progress import Progress

MIDDLE = (0.1, 99.9)  # percentiles of an image that become 0 and 1: half precision then holds it, and fill values do not set the scale
SAMPLE = 1_000_000  # values that percentiles are taken from


@dataclass(frozen=True)
class Propagation:
    """Atlases onto one image.

    Attributes
    ----------
    image
    folder
        Keeps ``ATLAS_image.npy`` (half precision), ``ATLAS_labels.npy`` and ``ATLAS.json``.
    registrar
    maps
        Folder for ``IMAGE__ATLAS.h5``; None to keep no maps.
    """

    image: Member
    folder: Path
    registrar: Registrar
    maps: Path | None = None

    def run(
        self, atlases: Sequence[Atlas], starts: dict[str, Transform], *, processes: int = 1, on_progress: Progress | None = None
    ) -> dict[str, dict[str, Any]]:
        """Warp those that are not warped yet.

        Returns
        -------
        dict
            Of each atlas its record: ``failed`` (None, or why it is left out), measures and seconds.
        """
        jobs = [_Job(self, atlas, starts.get(atlas.name)) for atlas in atlases if not self._is_made(atlas)]
        done = len(atlases) - len(jobs)
        for job, _ in run_all(_warp, jobs, processes=processes, name=_Job.name):
            done += 1
            if on_progress is not None:
                on_progress(done, len(atlases), job.name())
        return {atlas.name: self._record(atlas) for atlas in atlases}

    def warped(self, atlases: Sequence[Atlas], image: Image) -> WarpedAtlases:
        """The warped atlases; their arrays stay on disk."""
        images = [self._array(atlas, "image", (image.channels, *in_three(image.space))) for atlas in atlases]
        labels = [self._array(atlas, "labels", in_three(image.space)) for atlas in atlases]
        target = scaled(image.array).reshape(image.channels, *in_three(image.space))
        return WarpedAtlases(target, images, labels, [atlas.values for atlas in atlases])

    def warp(self, atlas: Atlas, start: Transform | None) -> None:
        """Register and warp one atlas; the record is written last, so that an atlas without one is warped again.

        An atlas that cannot be registered gets a record that says why.
        """
        started = time.perf_counter()
        try:
            found = self.registrar.find(self.image, atlas.member, start)
            if found.failed is None:
                self._keep(atlas, found)
        except WriteError:
            raise
        except NnRegError as error:
            found = Found(Transform.identity(2), str(error).splitlines()[0])
        record = {"made_from": self._made_from(atlas), "failed": found.failed, **found.told, "seconds": round(time.perf_counter() - started, 3)}
        write_json(self._path(atlas, ".json"), record)

    def _keep(self, atlas: Atlas, found: Found) -> None:
        image, moving = self.image.image(), atlas.member.image()
        labels = atlas.member.label_map(moving)
        assert labels is not None  # an atlas has labels
        if self.maps is not None:
            write_result(self.maps / f"{self.image.name}__{atlas.name}.h5", found.transform)
        warped = resample_image(scaled(moving.array), moving=moving.space, fixed=image.space, transform=found.transform)
        self._save(atlas, "image", warped.astype(np.float16))
        drawn = resample_labels(labels.array, moving=moving.space, fixed=image.space, transform=found.transform)
        self._save(atlas, "labels", drawn[0].astype(label_type(atlas.values)))

    def _save(self, atlas: Atlas, what: str, array: AnyArray) -> None:
        with atomic_path(self._path(atlas, f"_{what}.npy")) as temporary:
            np.save(temporary, array)

    def _array(self, atlas: Atlas, what: str, shape: tuple[int, ...]) -> AnyArray:
        return np.load(self._path(atlas, f"_{what}.npy"), mmap_mode="r").reshape(shape)

    def _path(self, atlas: Atlas, ending: str) -> Path:
        return self.folder / f"{atlas.name}{ending}"

    def _record(self, atlas: Atlas) -> dict[str, Any]:
        return {key: value for key, value in read_json(self._path(atlas, ".json")).items() if key != "made_from"}

    def _is_made(self, atlas: Atlas) -> bool:
        path = self._path(atlas, ".json")
        if not path.is_file():
            return False
        record = read_json(path)
        kept = record["failed"] is not None or all(self._path(atlas, f"_{what}.npy").is_file() for what in ("image", "labels"))
        return kept and record["made_from"] == self._made_from(atlas)

    def _made_from(self, atlas: Atlas) -> dict[str, str]:
        return made_from((self.image, atlas.member), self.registrar) | {"labels": content_digest([atlas.member.labels])}


@dataclass(frozen=True)
class _Job:
    """One atlas onto one image, in whatever process."""

    propagation: Propagation
    atlas: Atlas
    start: Transform | None

    def name(self) -> str:
        return f"{self.propagation.image.name}__{self.atlas.name}"


def _warp(job: _Job) -> None:
    job.propagation.warp(job.atlas, job.start)


def in_three(space: Space) -> Three:
    """The shape of a grid; one plane for an image of two axes."""
    depth, height, width = (1, *space.shape) if space.ndim == 2 else space.shape
    return depth, height, width


def scaled(array: AnyArray) -> Floats:
    """Channels (C, ...) of which most values lie from 0 to 1."""
    result = np.empty(array.shape, np.float32)
    for channel, values in zip(result, array, strict=True):
        flat = values.reshape(-1)
        low, high = np.percentile(flat[:: max(1, flat.size // SAMPLE)], MIDDLE)
        if not high > low:
            low, high = float(flat.min()), float(flat.max())
        channel[...] = (values - np.float32(low)) / np.float32((high - low) or 1)
    # what lies farther out fits half precision all the same
    return np.clip(result, -1000, 1000)


def label_type(values: Iterable[int]) -> np.dtype[Any]:
    """The smallest type that holds labels of 0 and above and that every format stores."""
    highest = max(values, default=0)
    return np.dtype(np.uint8 if highest < 2**8 else np.int16 if highest < 2**15 else np.int32)
