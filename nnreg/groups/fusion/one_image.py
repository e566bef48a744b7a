"""How atlases label one image: selected, registered, warped once and fused; and what a user may choose of that."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import AnyArray
from nnreg.errors import ConfigurationError, RegistrationError, did_you_mean
from nnreg.evaluation.dense_prediction.pictures import overview_of_labels
from nnreg.files import content_digest, writable_folder
from nnreg.geometry import Space
from nnreg.groups.fusion.atlases import Atlas, AtlasSet
from nnreg.groups.fusion.blocks import Three, WarpedAtlases
from nnreg.groups.fusion.methods import FusionSettings
from nnreg.groups.fusion.propagation import Propagation, label_type
from nnreg.groups.fusion.registrars import Registrar
from nnreg.groups.fusion.scores import Label, scored
from nnreg.groups.fusion.selection import USUAL, Selection
from nnreg.groups.fusion.vote import PLAIN, STAPLE, Fused, Meaning, fuse_warped, method_names
from nnreg.groups.maps import made_from
from nnreg.groups.members import Member
from nnreg.imageio import Image, ending_for, ending_of, write_image
from nnreg.inference.dense_prediction.probabilities import ENDING as PROBABILITIES
from nnreg.inference.dense_prediction.probabilities import write_probabilities
from nnreg.progress import Progress, part_of

THICK = 2.0  # spacings along other axes from which on a patch is no longer than its shorter radius in mm
REGISTERING = 0.8  # of the progress of an image: the rest is the fusion
RADII = (0, 6)  # voxels that may be asked for: beyond, a block has more around it than in it


@dataclass(frozen=True)
class FuseOptions:
    """How labels are fused, and what is written.

    Attributes
    ----------
    method
        One of :func:`nnreg.groups.fusion.vote.method_names`.
    atlases_used
        How many of the most similar atlases are registered to an image; at most USUAL if None.
    patch_radius, search_radius
        Voxels of the finest spacing.
    probabilities
        Whether to write ``probabilities/IMAGE.npz``: shares of all labels.
    keep_warped
        Whether to keep ``work/IMAGE``: warped atlases, from which another method fuses without a registration.
    keep_maps
        Whether to write ``maps/IMAGE__ATLAS.h5``.
    pictures
        Whether to draw ``pictures/IMAGE.png``.
    strict
        Whether an atlas or image that cannot be used ends the run; if not, it is left out and named.

    Raises
    ------
    ConfigurationError
        For an unknown method, a radius out of range, no atlas at all, or probabilities of STAPLE.
    """

    method: str = "joint"
    atlases_used: int | None = None
    patch_radius: int = 2
    search_radius: int = 3
    probabilities: bool = False
    keep_warped: bool = False
    keep_maps: bool = False
    pictures: bool = True
    strict: bool = False

    def __post_init__(self) -> None:
        if self.method not in method_names():
            raise ConfigurationError(f"fusion method {self.method!r} is unknown; {did_you_mean(self.method, method_names())}")
        if self.probabilities and self.method == STAPLE:
            raise ConfigurationError("probabilities: SimpleITK's STAPLE gives labels alone. Take another method, or leave probabilities out.")
        for name, radius, least in (("patch", self.patch_radius, 1), ("search", self.search_radius, RADII[0])):
            if not least <= radius <= RADII[1]:
                raise ConfigurationError(f"{name} radius {radius}: expected {least} to {RADII[1]} voxels.")
        if self.atlases_used is not None and self.atlases_used < self.fewest:
            raise ConfigurationError(f"atlases used {self.atlases_used}: method {self.method} needs {self.fewest} or more.")

    @property
    def fewest(self) -> int:
        """Atlases that an image needs: labels of one are propagated by a majority of one."""
        return 1 if self.method == "majority" else 2

    def settings(self, space: Space) -> FusionSettings:
        """Radii in voxels of each axis: thick axes get shorter ones."""
        return FusionSettings(_radii(self.patch_radius, space), _radii(self.search_radius, space))


AS_IT_COMES = FuseOptions()


def _radii(radius: int, space: Space) -> Three:
    finest = min(space.spacing)
    z, y, x = (0,) * (3 - space.ndim) + tuple(
        0 if size == 1 else radius if step < THICK * finest else round(radius * finest / step) for size, step in zip(space.shape, space.spacing, strict=True)
    )
    return z, y, x


@dataclass(frozen=True)
class Fusion:
    """A set of atlases, and how they label an image.

    Attributes
    ----------
    atlases
    output
    options
    registrar
    meaning
        Of the labels: regions, a label to ignore.
    processes
        Atlases that are registered at a time.
    """

    atlases: AtlasSet
    output: Path
    options: FuseOptions
    registrar: Registrar
    meaning: Meaning = PLAIN
    processes: int = 1

    def run(self, member: Member, on_progress: Progress | None = None) -> dict[str, Any]:
        """Label one image; returns its record.

        Raises
        ------
        NnRegError
            If the image cannot be read, or too few atlases can be registered to it.
        """
        started = time.perf_counter()
        image = member.image()
        truth = member.label_map(image)
        used, records = self.brought(member, image, part_of(on_progress, 0, REGISTERING))
        warped = self.propagation(member).warped(used, image)
        fused = self._fused(member, image, warped, part_of(on_progress, REGISTERING, 1))
        if self.options.pictures:
            overview_of_labels(self._picture(member), image, fused.labels.reshape(image.space.shape), truth=truth)
        self._write(member, image, fused)
        content: dict[str, Any] = {
            "made_from": self.made_from(member),
            "atlases": records,
            "used": [atlas.name for atlas in used],
            "disputed_percent": round(100 * fused.disputed / image.space.voxels, 4),
            "mean_entropy": float(fused.entropy[fused.labels > 0].mean()) if (fused.labels > 0).any() else 0.0,
            "voxels": {str(value): int(count) for value, count in zip(*np.unique(fused.labels[fused.labels > 0], return_counts=True), strict=True)},
        }
        if truth is not None:
            content["dice"] = self.compared(truth.array[0], fused.labels.reshape(image.space.shape), used, warped)
        content["seconds"] = round(time.perf_counter() - started, 3)
        return content

    def brought(self, member: Member, image: Image, on_progress: Progress | None = None) -> tuple[list[Atlas], dict[str, Any]]:
        """The atlases that were brought onto an image, and the record of each that was tried; where one fails, the next most similar takes its place.

        Raises
        ------
        RegistrationError
            If fewer are left than the method needs.
        """
        others = [atlas for atlas in self.atlases.atlases if not _same(atlas.member, member)]
        wanted = min(self.options.atlases_used or USUAL, len(others))
        ranked, starts, told = self._ranked(member, others, wanted)
        used: list[Atlas] = []
        records: dict[str, Any] = {}
        while ranked and len(used) < wanted:
            batch, ranked = ranked[: wanted - len(used)], ranked[wanted - len(used) :]
            found = self.propagation(member).run(batch, starts, processes=self.processes, on_progress=on_progress)
            for atlas in batch:
                records[atlas.name] = told.get(atlas.name, {}) | found[atlas.name]
                if found[atlas.name]["failed"] is None:
                    used.append(atlas)
        if len(used) < self.options.fewest:
            name, reason = next(((name, record["failed"]) for name, record in records.items() if record["failed"]), ("", ""))
            first = f". Atlas {name}: {str(reason).rstrip('.')}" if name else ""
            raise RegistrationError(
                f"{member.files[0]}: {len(used)} of {len(records)} atlases could be registered to it, method {self.options.method} needs "
                f"{self.options.fewest}{first}. Give atlases of the same part of the body and contrast."
            )
        return used, records

    def _ranked(self, member: Member, atlases: Sequence[Atlas], wanted: int) -> tuple[list[Atlas], dict[str, Any], dict[str, Any]]:
        """Atlases in the order in which they are taken, linear alignments that were found for that, and what the record says."""
        if wanted == len(atlases):
            return list(atlases), {}, {}
        order = Selection(member, self.work(member) / "selection.json").run(atlases, processes=self.processes)
        by_name = {atlas.name: atlas for atlas in atlases}
        starts = {name: aligned.start for name, aligned in order.items() if aligned.start is not None}
        return [by_name[name] for name in order], starts, {name: {"likeness": round(aligned.similarity, 4)} for name, aligned in order.items()}

    def _fused(self, member: Member, image: Image, warped: WarpedAtlases, on_progress: Progress | None) -> Fused:
        options = self.options
        fuse_by = functools.partial(fuse_warped, warped, options.method, options.settings(image.space), meaning=self.meaning, on_progress=on_progress)
        if not options.probabilities:
            return fuse_by()
        classes = [0, *self.atlases.values()]
        path = self.work(member) / "shares.npy"  # half precision on disk: all labels of a brain do not fit memory
        shares = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(classes), *warped.shape))
        try:
            fused = fuse_by(classes=classes, probabilities=shares)
            shape = (len(classes), *image.space.shape)
            writable_folder(self.output / "probabilities")
            write_probabilities(self._probabilities(member), (share.reshape(shape[1:]) for share in shares), shape)
        finally:
            path.unlink(missing_ok=True)
        return fused

    def _write(self, member: Member, image: Image, fused: Fused) -> None:
        """Uncertainty first: an image whose label map is there is finished."""
        entropy, labels = (array.reshape(1, *image.space.shape) for array in (fused.entropy, fused.labels.astype(self._type)))
        write_image(self._uncertainty(member), entropy, image.space)
        write_image(self._file(member), labels, image.space)

    def compared(self, truth: AnyArray, found: AnyArray, used: Sequence[Atlas], warped: WarpedAtlases) -> dict[str, Any]:
        """Overlap with true labels, of the fused map and of each atlas alone; labels that no atlas has are named."""
        alone = {atlas.name: np.asarray(array).reshape(truth.shape) for atlas, array in zip(used, warped.labels, strict=True)}
        known = set(self.atlases.values())
        nowhere = sorted(set(np.unique(truth).tolist()) - known - {0, self.meaning.ignore})
        return scored(truth, found, alone, self._labels()) | {"in_no_atlas": nowhere}

    def _labels(self) -> list[Label]:
        return list(self.meaning.regions) or [value for value in self.atlases.values() if value != self.meaning.ignore]

    def made_from(self, member: Member) -> dict[str, Any]:
        """What tells whether the labels of an image would be others now."""
        what = (asdict(self.options) | {"strict": None, "keep_warped": None, "pictures": None}, self.registrar, self.meaning)
        files = [path for atlas in self.atlases.atlases for path in (*atlas.member.files, atlas.member.mask, atlas.member.labels)]
        return made_from([member], what) | {"labels": content_digest([member.labels]), "atlases": content_digest(files)}

    def discard(self, member: Member, *, labelled: bool) -> None:
        """Remove what an earlier run wrote of an image and this one did not: it would be taken for this one's."""
        options = self.options
        kept = {
            self._file(member): labelled,
            self._uncertainty(member): labelled,
            self._probabilities(member): labelled and options.probabilities,
            self._picture(member): labelled and options.pictures,
        }
        for path, is_new in kept.items():
            if not is_new:
                path.unlink(missing_ok=True)

    def finished(self, member: Member, record: Mapping[str, Any] | None) -> bool:
        """Whether the label map of an earlier run is the one that this one would make."""
        there = self._file(member).is_file() and (not self.options.probabilities or self._probabilities(member).is_file())
        return record is not None and there and record.get("made_from") == self.made_from(member)

    @property
    def _type(self) -> np.dtype[Any]:
        """Of label maps."""
        return label_type([*self.atlases.values(), *self.meaning.painted])

    def _file(self, member: Member) -> Path:
        return self.output / f"{member.name}{ending_for(ending_of(member.files[0]), self._type)}"

    def _uncertainty(self, member: Member) -> Path:
        return self.output / "uncertainty" / f"{member.name}{ending_for(ending_of(member.files[0]), np.dtype(np.float32))}"

    def _probabilities(self, member: Member) -> Path:
        return self.output / "probabilities" / f"{member.name}{PROBABILITIES}"

    def _picture(self, member: Member) -> Path:
        return self.output / "pictures" / f"{member.name}.png"

    def propagation(self, member: Member) -> Propagation:
        """How atlases come onto an image."""
        return Propagation(member, self.work(member), self.registrar, self.output / "maps" if self.options.keep_maps else None)

    def work(self, member: Member) -> Path:
        """Folder of what a run that goes on finds again."""
        return self.output / "work" / member.name


def _same(one: Member, other: Member) -> bool:
    """Whether an atlas is the image itself or a copy of it: its own labels would be the result."""
    return {path.resolve() for path in one.files} == {path.resolve() for path in other.files} or content_digest(one.files) == content_digest(other.files)
