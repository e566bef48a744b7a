"""One registration method on one pair, in a process of its own: ``python methods.py JOB.json`` writes the map and what it cost.

The job names ``method, fixed, moving`` (image files), ``output`` (folder), ``threads`` and ``aligned`` (whether the images are aligned already;
if not, the method starts with its own linear alignment), and may hold masks and ``settings`` of the method.

Left behind are ``field.nii.gz`` (displacement, mm, LPS, fixed grid), where needed ``matrix.json`` (applied after it),
and ``cost.json`` (seconds, CPU seconds, peak MB). A peer needs nothing of nnReg, so it can run in an environment of its own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def nnreg(job: Job) -> None:
    """nnReg, with the preset that the method's name ends in; ``nnreg-affine`` is the linear alignment alone."""
    import torch

    from nnreg.engine import register
    from nnreg.geometry import Transform
    from nnreg.geometry.itk import write_itk
    from nnreg.imageio import read_image

    torch.set_num_threads(job["threads"])
    preset = job["method"].removeprefix("nnreg-")
    fixed, moving = read_image(job["fixed"]), read_image(job["moving"])
    masks = {name: read_image(job[name]) for name in ("fixed_mask", "moving_mask") if name in job}
    options = {"affine_only": True} if preset == "affine" else {"preset": preset}
    if job["aligned"]:
        options["initial"] = Transform.identity(fixed.ndim)
    with measured(job):
        result = register(fixed=fixed, moving=moving, **masks, **options)
    write_itk(Path(job["output"]) / "field.nii.gz", result.transform, fixed.space)


def whole_command(job: Job) -> None:
    """``nnreg_register`` from its start to its end, with the preset that the method's name ends in: what it costs besides the engine, and what it writes."""
    import subprocess

    from nnreg.geometry.itk import read_itk, write_itk
    from nnreg.imageio import read_image

    output = Path(job["output"])
    masks = [word for name in ("fixed_mask", "moving_mask") if name in job for word in (f"--{name}", job[name])]
    start = ["--alignment", "none"] if job["aligned"] else []
    command = [sys.executable, "-m", "nnreg.cli.register", job["fixed"], job["moving"], "-o", str(output / "command"), *masks, *start]
    with measured(job):
        subprocess.run([*command, "--preset", job["method"].removeprefix("command-")], check=True, stdout=subprocess.DEVNULL)
    written = sum(path.stat().st_size for path in (output / "command").iterdir()) / 1e6
    cost = json.loads((output / "cost.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    (output / "cost.json").write_text(json.dumps({**cost, "peak_mb": peak, "written_mb": written}))
    write_itk(output / "field.nii.gz", read_itk(output / "command" / "transform.h5"), read_image(job["fixed"]).space)


def ants(job: Job) -> None:
    """ANTs: SyN as it comes, with local correlation down to full resolution, or affine alone; ``settings`` are arguments of its own."""
    import ants as library

    fixed, moving = library.image_read(str(job["fixed"])), library.image_read(str(job["moving"]))
    kind = {"ants_syn": "SyN", "ants_syn_cc": "SyN", "ants_affine": "Affine"}[job["method"]]
    options: dict[str, Any] = {"random_seed": 1, **job.get("settings", {})}
    if options.pop("masks", False):
        options.update(mask=library.image_read(str(job["fixed_mask"])), moving_mask=library.image_read(str(job["moving_mask"])), mask_all_stages=True)
    if job["aligned"]:
        kind = "SyNOnly"
        options["initial_transform"] = "identity"
    if job["method"] == "ants_syn_cc":
        options.update(syn_metric="CC", syn_sampling=2, reg_iterations=(100, 50, 10))
    with measured(job):
        result = library.registration(fixed, moving, kind, **options)
    prefix = str(Path(job["output"]) / "composed")
    found = library.apply_transforms(fixed, moving, result["fwdtransforms"], compose=prefix)
    Path(found).rename(Path(job["output"]) / "field.nii.gz")


def greedy(job: Job) -> None:
    """Greedy with local correlation in the small window that serves brains best; ``settings``: metric, radius, sigmas, iterations, masks."""
    import numpy as np
    import SimpleITK as sitk
    from picsl_greedy import Greedy2D, Greedy3D

    settings = job.get("settings", {})
    image = sitk.ReadImage(str(job["fixed"]))
    ndim = image.GetDimension()
    # it halves every axis from level to level and refuses fewer than four voxels, so stacks of a few slices get fewer levels
    levels = 1 + int(np.clip(np.log2(min(image.GetSize()) / 4), 0, 2))
    iterations = "x".join(settings.get("iterations", "100x50x10").split("x")[-levels:])
    program = Greedy2D() if ndim == 2 else Greedy3D()
    metric = settings.get("metric", "NCC")
    if metric == "NCC":
        metric += " " + "x".join([str(settings.get("radius", 2))] * ndim)
    masks = f" -gm {job['fixed_mask']} -mm {job['moving_mask']}" if settings.get("masks") else ""
    smooth = f"-s {settings['sigmas']}" if "sigmas" in settings else ""
    folder = Path(job["output"])
    common = f"-d {ndim} -i {job['fixed']} {job['moving']} -m {metric} -threads {job['threads']}{masks}"
    start = ""
    with measured(job):
        if not job["aligned"]:
            program.execute(f"{common} -a -dof 12 -ia-image-centers -n {iterations} -o {folder / 'affine.mat'}")
            start = f"-it {folder / 'affine.mat'}"
        program.execute(f"{common} {start} {smooth} -n {iterations} -wp 0 -o {folder / 'field.nii.gz'}")
    if start:
        # Greedy's world is RAS
        flip = np.diag([*[-1.0, -1.0, 1.0, 1.0][:ndim], 1.0])
        matrix = flip @ np.loadtxt(folder / "affine.mat") @ flip
        (folder / "matrix.json").write_text(json.dumps(matrix.tolist()))


def elastix(job: Job) -> None:
    """elastix: its default B-spline stage, after its default rigid and affine stages where the images are not aligned.

    ``settings``: metric, grid (control points every so many voxels of the finest axis), weights of metric and bending energy, iterations, masks.
    """
    import itk

    settings = job.get("settings", {})
    fixed, moving = (itk.imread(str(job[side]), itk.F) for side in ("fixed", "moving"))
    parameters = itk.ParameterObject.New()
    for stage in ("bspline",) if job["aligned"] else ("rigid", "affine", "bspline"):
        chosen = parameters.GetDefaultParameterMap(stage)
        if stage == "bspline":
            _bspline(chosen, settings, min(fixed.GetSpacing()))
        parameters.AddParameterMap(chosen)
    masks = {f"{side}_mask": itk.imread(str(job[f"{side}_mask"]), itk.UC) for side in ("fixed", "moving")} if settings.get("masks") else {}
    with measured(job):
        _, found = itk.elastix_registration_method(fixed, moving, parameter_object=parameters, log_to_console=False, **masks)
    field = itk.transformix_deformation_field(moving, found)
    itk.imwrite(field, str(Path(job["output"]) / "field.nii.gz"))


def _bspline(chosen: Any, settings: dict[str, Any], finest: float) -> None:
    """Change elastix's B-spline stage."""
    if "grid" in settings:
        chosen["FinalGridSpacingInPhysicalUnits"] = [str(settings["grid"] * finest)]
    if "metric" in settings:
        chosen["Metric"] = [settings["metric"], "TransformBendingEnergyPenalty"]
    if "weights" in settings:
        chosen["Metric0Weight"], chosen["Metric1Weight"] = ([str(weight)] for weight in settings["weights"])
    if "iterations" in settings:
        chosen["MaximumNumberOfIterations"] = [str(settings["iterations"])]


def convexadam(job: Job) -> None:
    """ConvexAdam with MIND features, which starts from aligned images; ``settings`` are arguments of its own."""
    import numpy as np
    import SimpleITK as sitk
    from convexAdam.convex_adam_MIND import convex_adam_pt

    fixed, moving = sitk.ReadImage(str(job["fixed"]), sitk.sitkFloat32), sitk.ReadImage(str(job["moving"]), sitk.sitkFloat32)
    with measured(job):
        voxels = convex_adam_pt(img_fixed=fixed, img_moving=moving, **job.get("settings", {}))
    spacing, direction = np.asarray(fixed.GetSpacing()), np.asarray(fixed.GetDirection()).reshape(3, 3)
    # voxels (z, y, x, 3) along array axes
    millimetres = voxels[..., ::-1] * spacing @ direction.T
    image = sitk.GetImageFromArray(millimetres.astype(np.float32), isVector=True)
    image.CopyInformation(fixed)
    sitk.WriteImage(image, str(Path(job["output"]) / "field.nii.gz"))


def fireants(job: Job) -> None:
    """FireANTs' greedy registration as its authors' scripts for several brain data sets run it, after its affine stage where the images are not aligned.

    It is made for GPUs, and runs on one where the method's name ends in ``cuda``; on the CPU otherwise.
    """
    import SimpleITK as sitk
    import torch
    from fireants.io.image import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    torch.set_num_threads(job["threads"])
    device = "cuda" if job["method"].endswith("cuda") else "cpu"
    fixed, moving = (BatchedImages(Image.load_file(str(job[side]), device=device)) for side in ("fixed", "moving"))
    common: dict[str, Any] = {"fixed_images": fixed, "moving_images": moving, "loss_type": "cc", "cc_kernel_size": 5, "progress_bar": False}
    start = None
    with measured(job):
        if not job["aligned"]:
            linear = AffineRegistration([8, 4, 2, 1], [100, 50, 25, 20], optimizer="Adam", optimizer_lr=3e-4, **common)
            linear.optimize()
            start = linear.get_affine_matrix().detach()
        greedy = GreedyRegistration([4, 2, 1], [200, 100, 25], optimizer="Adam", optimizer_lr=0.5, smooth_grad_sigma=1, init_affine=start, **common)
        greedy.optimize()
        with torch.no_grad():
            there = greedy.get_warped_coordinates(fixed, moving)
    # positions between -1 and 1, x first, to mm; its own writer knows volumes only
    ndim = there.shape[-1]
    here = torch.nn.functional.affine_grid(torch.eye(ndim, ndim + 1, device=device)[None], [1, 1, *there.shape[1:-1]], align_corners=True)
    ends = [
        grid.double() @ to[0, :ndim, :ndim].double().T + to[0, :ndim, ndim] for grid, to in ((here, fixed.get_torch2phy()), (there, moving.get_torch2phy()))
    ]
    image = sitk.GetImageFromArray((ends[1] - ends[0])[0].float().cpu().numpy(), isVector=True)
    image.CopyInformation(sitk.ReadImage(str(job["fixed"])))
    sitk.WriteImage(image, str(Path(job["output"]) / "field.nii.gz"))


METHODS: dict[str, Callable[[Job], None]] = {
    **{f"nnreg-{preset}": nnreg for preset in ("affine", "fast", "default", "accurate")},
    **{f"command-{preset}": whole_command for preset in ("fast", "default", "accurate")},
    **{f"ants_{name}": ants for name in ("affine", "syn", "syn_cc")},
    "greedy": greedy,
    "elastix": elastix,
    "convexadam": convexadam,
    "fireants": fireants,
    "fireants_cuda": fireants,
}
PACKAGES = {"ants": "ants", "greedy": "picsl_greedy", "elastix": "itk", "convexadam": "convexAdam", "fireants": "fireants"}


class measured:
    """Write what the block cost: wall and CPU seconds of this process and its children, and the peak of its memory."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            cost = {"seconds": time.perf_counter() - self.wall, "cpu_seconds": sum(os.times()[:4]) - self.cpu, "peak_mb": peak}
            (Path(self.job["output"]) / "cost.json").write_text(json.dumps(cost))


def main() -> None:
    """Run the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text())
    METHODS[job["method"]](job)


if __name__ == "__main__":
    main()
