"""Building a template: alignment, rounds from coarse to fine grids, results; every step is kept, so that a run that was killed goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnreg.arrays import Doubles
from nnreg.engine.names import AUTO
from nnreg.errors import DatasetError, NnRegError, RegistrationError
from nnreg.files import content_digest, no_empty_folders, read_json, write_json
from nnreg.geometry import Space
from nnreg.groups.affine_mean import centred, mean_logarithm
from nnreg.groups.members import Member, taken_for_channels
from nnreg.groups.output_folder import MARK, SUMMARY, files_of, own_folder, refuse_others_work
from nnreg.groups.template.contrast import ONE_CONTRAST, agreements
from nnreg.groups.template.linear import Alignment, MeanFile, template_space
from nnreg.groups.template.mean_image import MeanImage, difference, mean_of, sharpened
from nnreg.groups.template.options import STILL, UNCHANGED, TemplateOptions, grids
from nnreg.groups.template.results import Built, write_results
from nnreg.groups.template.rounds import Place, Register, Shape, recentre
from nnreg.groups.template.subjects import Subject, candidates, check_alike, measure, ordered
from nnreg.parallel import run_all
from nnreg.progress import Progress

FEWEST_IMAGES = 2


def build_template(
    members: Sequence[Member],
    output: Path | str,
    options: TemplateOptions | None = None,
    *,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the template of a group of images into a folder.

    Parameters
    ----------
    members
        As :func:`nnreg.groups.members.members_in` finds them; two at least, of one contrast, as many channels each. Labels of members are fused on the
        template, masks say where images may be looked at.
    output
        Made if it is absent. ``template.nii.gz``, ``affine_mean.nii.gz``, ``template_labels.nii.gz`` where there are labels, ``template_mask.nii.gz`` where
        half of the images do not show all of it, ``maps/NAME.h5`` (template to image) and ``maps/NAME_inverse.h5``, ``overview.png``, ``summary.json``.
        ``work`` in it holds what is finished while it runs: the same call goes on from there.
    options : TemplateOptions, optional
    processes
        Images that are worked on at a time.
    on_progress
        Called with (done, total, what is being done).

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    DatasetError
        If there are fewer than two images, or they differ in axes or channels.
    RegistrationError
        If images are of different contrasts, or one cannot be registered; with ``skip_failures``, if fewer than two are left.
    NnRegError
        If a file cannot be read or the folder not be written.
    """
    options = TemplateOptions() if options is None else options
    output = Path(output)
    made_from = _made_from(members, options)
    summary = output / SUMMARY
    if summary.is_file() and read_json(summary).get("made_from") == made_from:
        return dict(read_json(summary))
    left_out: dict[str, str] = {}
    _check_count(members, left_out, taken_for_channels(members))
    subjects = _measured(members, options, left_out)
    _check_count(subjects, left_out)
    with no_empty_folders():
        own_folder(output, files_of(members), "rounds")
        work = _work_folder(output / "work", made_from)
        built = _without_failures(subjects, left_out, work, _Runner(options, processes, on_progress))
        content = write_results(built, output, processes=processes, made_from=made_from, on_progress=on_progress)
    shutil.rmtree(work.parent, ignore_errors=True)
    return content


def _made_from(members: Sequence[Member], options: TemplateOptions) -> dict[str, str]:
    """What tells whether the template would be another now."""
    return {"files": content_digest(files_of(members)), "options": repr(options)}


def _work_folder(folder: Path, made_from: dict[str, str]) -> Path:
    """Where steps are kept; those of other images or options are removed."""
    refuse_others_work(folder)
    record = folder / MARK
    if folder.is_dir() and not (record.is_file() and read_json(record) == made_from):
        shutil.rmtree(folder)
    if not record.is_file():
        write_json(record, made_from)
    return folder / "steps"


class _Job(Protocol):
    """One piece of work that keeps its result in files."""

    @property
    def name(self) -> str: ...

    def run(self) -> None: ...


def _run(job: _Job) -> None:
    job.run()


def _name(job: _Job) -> str:
    return job.name


@dataclass
class _Runner:
    """What all steps share."""

    options: TemplateOptions
    processes: int
    on_progress: Progress | None
    done: int = 0
    expected: int = 0

    def run(self, jobs: Sequence[_Job]) -> None:
        """Jobs of one step, in any number of processes."""
        for job, _ in run_all(_run, jobs, processes=self.processes, name=_name):
            self.tell(job.name)

    def tell(self, what: str) -> None:
        """One more is done."""
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(min(self.done, self.expected - 1), self.expected, what)


class _LeftOut(Exception):
    """Images that go no further, by name, each with its reason."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__(str(reasons))
        self.reasons = reasons


def _without_failures(subjects: list[Subject], left_out: dict[str, str], work: Path, runner: _Runner) -> Built:
    """The template of all images, or, where failures are skipped, of those that do not fail."""
    while True:
        subjects = [subject for subject in subjects if subject.name not in left_out]
        _check_count(subjects, left_out)
        # one image less is another template: its steps are kept apart
        folder = work / f"without_{len(left_out)}"
        try:
            built = _Building(folder, subjects, runner).run()
        except _LeftOut as failed:
            if not runner.options.skip_failures:
                raise RegistrationError(" ".join(f"{name}: {reason}" for name, reason in list(failed.reasons.items())[:1])) from None
            left_out |= failed.reasons
            continue
        built.left_out.update(left_out)
        return built


def _check_count(items: Sequence[Any], left_out: dict[str, str], read_as: str = "") -> None:
    if len(items) < FEWEST_IMAGES:
        why = read_as + "".join(f" {name}: {reason}" for name, reason in left_out.items())
        raise DatasetError(f"a template needs {FEWEST_IMAGES} images at least, found {len(items)}.{why}" + ("" if why else " Name a folder with more images."))


def _measured(members: Sequence[Member], options: TemplateOptions, left_out: dict[str, str]) -> list[Subject]:
    """Read and measured; those of other axes or channels than the first are refused."""
    found: list[Subject] = []
    for member in members:
        try:
            subject = measure(member, scale=options.scale)
            if found:
                check_alike(subject, found[0])
            found.append(subject)
        except NnRegError as error:
            if not options.skip_failures:
                raise
            left_out[member.name] = str(error).splitlines()[0]
    return ordered(found)


@dataclass
class _Building:
    """The steps of one template. Each has a folder, and is not done again where its last file is there."""

    folder: Path
    subjects: list[Subject]
    runner: _Runner
    matrices: list[Doubles] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> Built:
        """All steps."""
        options, count = self.runner.options, len(self.subjects)
        self.runner.done, self.runner.expected = 0, count * (4 + 3 * len(grids(self.subjects[0].space)) + 8 * 2)
        reference = self._aligned()
        finest = template_space(reference, self.subjects, self.matrices, options.spacing)
        ladder = grids(finest)
        self._aligned_to_mean(ladder[0][1])
        shape: Shape | None = None
        for factor, space in ladder:
            affine = self._affine_mean(factor, space)
            shape = affine if shape is None else self._carried(shape, factor, space)
            shape = self._rounds_on(shape, factor, affine)
        assert shape is not None
        return Built(self.subjects, self.matrices, shape, affine, reference, options, self.rounds, {})

    def _place(self, new: Shape, make: Callable[[Subject, Doubles], Place], *, check: bool = False) -> Shape:
        """All images in a new state, and their mean; with `check`, whether they are of one contrast."""
        if not new.mean.is_file():
            self.runner.run([make(subject, matrix) for subject, matrix in zip(self.subjects, self.matrices, strict=True)])
            files = [new.warped(subject) for subject in self.subjects]
            mean = mean_of(files, new.space)
            if check:
                self._check_contrast(agreements(files, mean))
            mean.save(new.mean)
            shutil.rmtree(new.folder / "warped")
        return new

    def _check_contrast(self, found: Sequence[float]) -> None:
        """Name images of another contrast; half of a group are none that is other than the rest."""
        if self.runner.options.similarity != AUTO:
            return
        odd = {subject.name: value for subject, value in zip(self.subjects, found, strict=True) if value < ONE_CONTRAST}
        if 2 * len(odd) >= len(self.subjects):
            raise RegistrationError(
                f"the images are of several contrasts: {len(odd)} of {len(self.subjects)} hardly resemble the mean of the others ({', '.join(sorted(odd))}). "
                "Give images of one contrast, or name a --similarity."
            )
        if odd:
            raise _LeftOut(
                {
                    name: f"has another contrast than the others (local correlation {value:.2f} with their mean, expected {ONE_CONTRAST:g} or more). "
                    "Leave it out, use --skip_failures, or name a --similarity."
                    for name, value in odd.items()
                }
            )

    # linear part

    def _aligned(self) -> Subject:
        """Matrices from the middle of the group to every image; the reference by which they were found."""
        reference = candidates(self.subjects)[0]
        others = [subject for subject in self.subjects if subject is not reference]
        own = np.eye(reference.space.ndim + 1)
        found = self._alignments(reference, others, self.folder / "aligned" / reference.name)
        self.matrices = centred([own if subject is reference else found[subject.name] for subject in self.subjects])
        return reference

    def _alignments(self, reference: Subject | MeanFile, subjects: Sequence[Subject], folder: Path) -> dict[str, Doubles]:
        """Matrices from a reference to images, by name."""
        jobs = [Alignment(subject, reference, self.runner.options, folder / f"{subject.name}.json") for subject in subjects]
        self.runner.run(jobs)
        records = {job.subject.name: job.record() for job in jobs}
        failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
        if failed:
            raise _LeftOut(failed)
        return {name: np.asarray(record["matrix"]) for name, record in records.items()}

    def _aligned_to_mean(self, space: Space) -> None:
        """Once more to the mean of all, so that the reference's shape does not remain in what is aligned to it."""
        start = Shape(self.folder / "aligned_mean", space, deformed=False)
        self._place(start, lambda subject, matrix: Place(subject, matrix, start, start), check=True)
        found = self._alignments(MeanFile(start.mean, space), self.subjects, self.folder / "aligned" / "mean")
        self.matrices = centred([found[subject.name] for subject in self.subjects])

    def _affine_mean(self, factor: int, space: Space) -> Shape:
        new = Shape(self.folder / f"affine_{factor}", space, deformed=False)
        return self._place(new, lambda subject, matrix: Place(subject, matrix, new, new))

    # deformable part

    def _carried(self, old: Shape, factor: int, space: Space) -> Shape:
        """The same maps on a finer grid."""
        new = Shape(self.folder / f"grid_{factor}", space)
        return self._place(new, lambda subject, matrix: Place(subject, matrix, old, new))

    def _rounds_on(self, shape: Shape, factor: int, affine: Shape) -> Shape:
        """Rounds on one grid until the template no longer moves and no longer changes."""
        for number in range(1, self.runner.options.most_rounds(factor) + 1):
            shape, measures = self._round(shape, factor, number, affine)
            self.rounds.append(measures)
            if measures["drift"] <= STILL and measures["change"] <= UNCHANGED:
                break
        return shape

    def _round(self, shape: Shape, factor: int, number: int, affine: Shape) -> tuple[Shape, dict[str, Any]]:
        new = Shape(self.folder / f"round_{factor}_{number}", shape.space)
        record = new.folder / "measures.json"
        if not record.is_file():
            jobs = [
                Register(subject, matrix, shape, self.runner.options, factor, number, new.folder / "registered")
                for subject, matrix in zip(self.subjects, self.matrices, strict=True)
            ]
            self.runner.run(jobs)
            self._check_registered(jobs)
            drift = self._recentred(jobs, shape, new)
            similarity = float(np.mean([job.record()["similarity"] for job in jobs]))
            write_json(record, self._measures(shape, new, affine, similarity) | drift | {"factor": factor, "round": number})
            self._forget(shape, new)
        return new, dict(read_json(record))

    @staticmethod
    def _check_registered(jobs: Sequence[Register]) -> None:
        failed = {job.subject.name: record["failed"] for job in jobs if "failed" in (record := job.record())}
        if failed:
            raise _LeftOut(failed)

    def _recentred(self, jobs: Sequence[Register], old: Shape, new: Shape) -> dict[str, float]:
        """Take the mean out of the maps of a round; how large it was."""
        inverse, record = new.folder / "recentre.npy", new.folder / "drift.json"
        if not record.is_file():
            write_json(record, recentre([job.field for job in jobs], old, inverse))
        raw = {job.subject.name: job.field for job in jobs}
        self._place(new, lambda subject, matrix: Place(subject, matrix, old, new, inverse, raw[subject.name]))
        return dict(read_json(record))

    @staticmethod
    def _measures(old: Shape, new: Shape, affine: Shape, similarity: float) -> dict[str, Any]:
        before, after, linear = (MeanImage.load(shape.mean, shape.space) for shape in (old, new, affine))
        energy = max(linear.energy(), 1e-30)
        sharp = MeanImage(sharpened(after.array), after.seen, after.space).energy()
        return {
            "spacing_mm": list(new.space.spacing),
            "change": difference(before, after),
            "sharpness": after.energy() / energy,
            "sharpness_sharpened": sharp / energy,
            "similarity": similarity,
        }

    @staticmethod
    def _forget(old: Shape, new: Shape) -> None:
        """What later steps do not need: displacements are large."""
        shutil.rmtree(new.folder / "registered", ignore_errors=True)
        shutil.rmtree(old.folder / "fields", ignore_errors=True)
        (new.folder / "recentre.npy").unlink(missing_ok=True)

    def balance(self) -> float:
        """How far the affine maps are from having the mean zero."""
        return mean_logarithm(self.matrices)
