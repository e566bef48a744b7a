"""One pair from Python: images of any package in, a result that applies, saves and shows itself."""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.dataset.keypoints import check_inside, read_keypoints
from nnreg.dataset.label_files import whole_numbers
from nnreg.engine.options import EngineOptions
from nnreg.engine.registration import register as register_pair
from nnreg.engine.result import Registration
from nnreg.engine.uncertainty import uncertainty_map
from nnreg.evaluation.registration.pictures import overview_of_transform
from nnreg.files import writable_folder
from nnreg.geometry import resample_image, resample_labels
from nnreg.imageio import Image
from nnreg.imageio.convert import as_image, is_array, on_grid_of
from nnreg.imageio.image import without_opaque_alpha
from nnreg.inference.registration.apply import looks_like_labels
from nnreg.inference.registration.register import PairFiles, Wanted, write_registration
from nnreg.progress import Further, progress_bar

BESIDE = ("mask", "labels")
IN_MEMORY = "in memory"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RegisteredPair(Registration):
    """A :class:`nnreg.engine.Registration` that is applied to further images and points, saved, and shown in notebooks.

    Attributes
    ----------
    names
        What the fixed and the moving image were read from.
    """

    names: tuple[str, str] = (IN_MEMORY, IN_MEMORY)

    def apply(self, moving: Any, *, labels: bool | None = None, spacing: Sequence[float] | None = None) -> Image:
        """Another image or label map of the moving subject on the fixed grid, sampled once.

        Parameters
        ----------
        moving
            Whatever :func:`nnreg.register` takes, on any grid in the world of the moving image.
        labels
            Whether it is a label map (nearest neighbour) or an image (linear interpolation); by default as it looks.
        spacing
            Of an array; the moving image's grid if it has the same shape.
        """
        given = self._placed(moving, spacing)
        chain: dict[str, Any] = {"moving": given.space, "fixed": self.fixed.space, "transform": self.transform}
        if looks_like_labels(given.array) if labels is None else labels:
            return Image(resample_labels(whole_numbers(given, Path("labels")).array, **chain), self.fixed.space)
        return Image(resample_image(given.array, **chain), self.fixed.space)

    def uncertainty(self) -> Image:
        """How far the map may be wrong, in mm on the fixed grid; see :func:`nnreg.engine.uncertainty_map`. Registers three times more."""
        return Image(uncertainty_map(self)[None], self.fixed.space)

    def apply_points(self, points: npt.ArrayLike) -> Doubles:
        """Where points of the fixed world lie in the moving world: (N, ndim) mm, x first. ``result.inverse.map_points`` goes the other way."""
        return self.transform.map_points(points)

    def save(self, folder: Path | str, *, picture: bool = True, field: bool = False) -> Path:
        """Write what ``nnreg_register`` writes: transforms, warped image and labels, ``measures.json``, ``overview.png``; with `field` ``field.nii.gz`` too.

        Without ``inverse_transform.h5`` where the map has no inverse. What an earlier registration wrote there is replaced or removed.

        Raises
        ------
        NnRegError
            If the folder cannot be written, or another file is in the way.
        """
        target = writable_folder(Path(folder))
        write_registration(target, self, files=PairFiles([self.names[0]], [self.names[1]]), wanted=Wanted(picture=picture, field=field))
        return target

    def __repr__(self) -> str:
        grid = "x".join(map(str, self.fixed.space.shape))
        state = "succeeded" if self.succeeded else "FAILED"
        return f"RegisteredPair({state}, fixed grid {grid}, {self.similarity} {self.similarity_before:.4f} -> {self.similarity_after:.4f})"

    def _repr_html_(self) -> str:
        """The overview and the measures, for notebooks."""
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "overview.png"
            overview_of_transform(path, self.fixed, self.moving, self.warped, self.transform)
            drawn = base64.b64encode(path.read_bytes()).decode()
        rows = "".join(f"<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>" for name, value in self._told().items())
        return f"<p>{self!r}</p><img alt='overview of the registered pair' style='max-width:100%' src='data:image/png;base64,{drawn}'/><table>{rows}</table>"

    def _told(self) -> dict[str, str]:
        """The measures in words."""
        result = {}
        for name, value in self.measures.items():
            stages = value if isinstance(value, Mapping) else {"": value}
            texts = [f"{stage} {'no overlap' if stage == 'header' and number != number else _short(number)}".strip() for stage, number in stages.items()]
            result[name] = ", ".join(texts)
        return result

    def _placed(self, given: Any, spacing: Sequence[float] | None) -> Image:
        """An array of the moving image's shape lies where it does."""
        if spacing is None and is_array(given) and tuple(given.shape[-self.moving.ndim :]) == self.moving.space.shape:
            return on_grid_of(self.moving, given, name="moving")
        return as_image(given, spacing=spacing, name="moving")


def register(
    fixed: Any,
    moving: Any,
    *,
    spacing: Sequence[float] | None = None,
    progress: bool = False,
    **options: Any,
) -> RegisteredPair:
    """Register one pair of images; nothing is trained.

    Parameters
    ----------
    fixed, moving
        A path, an :class:`nnreg.imageio.Image`, a numpy array or torch tensor (with `spacing`), an image of SimpleITK or nibabel.
    spacing : mm, array axis order, optional
        Of arrays and tensors, on both sides. Where the two differ, make images: ``Image(array, Space.plain(shape, spacing))``.
    progress
        Whether to show a bar, in notebooks too.
    **options
        ``fixed_mask``, ``moving_mask``, ``fixed_labels``, ``moving_labels``: as the images; arrays lie on the grid of their image. ``fixed_points``,
        ``moving_points``: arrays (N, ndim) of voxel indices, x first, or a ``.csv``. Everything else as in :func:`nnreg.engine.register`: preset,
        similarity, alignment, initial, guided, symmetric, radius, smoothness, constraints ...

    Returns
    -------
    RegisteredPair
        ``warped`` is the moving image on the fixed grid, ``transform`` maps points of the fixed world to the moving world, ``inverse`` back.

    Raises
    ------
    NnRegError
        An array without spacing, a file that cannot be read, an option that would have no effect, and all that :func:`nnreg.engine.register` refuses.

    Examples
    --------
    >>> import numpy as np, nnreg
    >>> axes = np.mgrid[-1:1:48j, -1:1:48j]
    >>> disc = ((axes**2).sum(axis=0) < 0.4).astype(np.float32) + 0.2 * np.sin(9 * axes[0])
    >>> result = nnreg.register(disc, np.roll(disc, 3, axis=1), spacing=(1, 1), preset="fast", alignment="none", similarity="lncc")
    >>> result.warped.array.shape, result.succeeded
    ((1, 48, 48), True)
    """
    chosen = {field.name: options[field.name] for field in dataclasses.fields(EngineOptions) if field.name in options}
    landmarks = options.get("fixed_points") is not None and options.get("moving_points") is not None
    EngineOptions(**chosen).check_effect(initial=options.get("initial") is not None, landmarks=landmarks)
    given = {"fixed": fixed, "moving": moving}
    sides = {side: without_opaque_alpha(as_image(image, spacing=spacing, name=side), side) for side, image in given.items()}
    for side, image in sides.items():
        for kind in BESIDE:
            if options.get(f"{side}_{kind}") is not None:
                options[f"{side}_{kind}"] = _beside(options[f"{side}_{kind}"], image, f"{side}_{kind}")
        if options.get(f"{side}_points") is not None:
            options[f"{side}_points"] = _points(options[f"{side}_points"], image, f"{side}_points")
    constraints = options.get("constraints")
    if constraints is not None and constraints.preserve is not None:
        options["constraints"] = dataclasses.replace(constraints, preserve=_beside(constraints.preserve, sides["fixed"], "preserve"))
    told = Further(progress_bar("registering", everywhere=True) if progress else options.get("on_progress"), 0)
    found = register_pair(fixed=sides["fixed"], moving=sides["moving"], **options | {"on_progress": told})
    told.end()
    whole = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return RegisteredPair(**whole, names=(_name(fixed), _name(moving)))


def _name(given: Any) -> str:
    return str(given) if isinstance(given, (str, PathLike)) else IN_MEMORY


def _beside(given: Any, image: Image, name: str) -> Image:
    """A mask or label map; arrays lie on the grid of their image."""
    return whole_numbers(on_grid_of(image, given, name=name), Path(name))


def _points(given: Any, image: Image, name: str) -> Doubles:
    if isinstance(given, (str, PathLike)):
        points = read_keypoints(Path(given))
        check_inside(points, image.space, Path(given))
        return points
    points = np.asarray(given, dtype=np.float64)
    check_inside(points, image.space, Path(name))
    return points


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value.get('mean', float('nan')):.4g}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


__all__ = ["RegisteredPair", "register"]
