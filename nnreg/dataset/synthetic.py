"""Synthetic pairs: ellipsoids with texture, as they are or deformed by a known flow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nnreg.dataset.phantom import RandomPhantom, RandomVelocity
from nnreg.errors import DatasetError, did_you_mean
from nnreg.geometry import compose, identity_grid, integrate
from nnreg.registry import Registry

STRUCTURES = 4
LARGE_BODY = ((-0.1, 0.1), (0.55, 0.8))  # centre and radius ranges of deformed pairs: structures large enough for labels to mean something
SPLITS = {"train": 0, "val": 1, "test": 2}


STEPS = 5  # of scaling and squaring; more change the flow by less than a hundredth of a voxel and cost a quarter each
MOST_REFINEMENTS, MOST_LEFT = 12, 0.1  # of flows that need more, and voxels: a truth that is further off is none
REFINEMENTS = 3  # leave under a hundredth of a voxel at four times the default displacement


def flow_and_inverse(velocity: Tensor) -> tuple[Tensor, Tensor]:
    """The displacement of a flow on the grid, linear between voxels, and its inverse at every voxel.

    ``exp(-v)`` alone is the inverse of the continuous flow, but that of the sampled one only to a tenth of a voxel. It is corrected by
    what is left, ``e(y) = phi(psi(y)) - y``: the map ``y -> psi(y - e(y))`` leaves only a change of `e` over a step of its own length.

    Parameters
    ----------
    velocity : Tensor, shape (B, ndim, *spatial), voxels per unit time

    Returns
    -------
    forward, backward : Tensors, shape (B, ndim, *spatial), voxels
        ``compose(forward, backward)`` is zero to a few thousandths of a voxel.

    Raises
    ------
    DatasetError
        If the iteration leaves more than a tenth of a voxel: such a flow bends too much.
    """
    forward, backward = integrate(velocity, STEPS), integrate(-velocity, STEPS)
    for number in range(MOST_REFINEMENTS + 1):
        left = compose(forward, backward)
        if number >= REFINEMENTS and float(left.norm(dim=1).max()) <= MOST_LEFT:
            return forward, backward
        backward = compose(backward, -left)
    raise DatasetError(
        f"a flow of up to {float(forward.norm(dim=1).max()):.1f} voxels has no inverse: up to {float(left.norm(dim=1).max()):.2f} voxels are left. "
        "Lower max_displacement, or make the images larger."
    )


class SyntheticEllipsoids(Dataset[dict[str, Tensor]]):
    """Pairs of images with random ellipsoids; the same index gives the same pair, whoever asks and in whatever order.

    Without `deform` a sample is ``{"moving", "fixed"}`` and both are the same image. With `deform` the moving image is the fixed one
    carried along a smooth flow, and the sample has the truth in both directions besides. The phantom T is a function of position, so with
    the flow phi and its inverse psi the images ``fixed(x) = T(x)`` and ``moving(y) = T(psi(y))`` are sampled without interpolation and
    ``moving(phi(x)) = fixed(x)`` by construction. The body of a deformed pair is larger than that of an undeformed one, and nearer the middle.

    Parameters
    ----------
    image_size : sequence of int, (D, H, W) or (H, W)
    num_samples
        Length of the dataset.
    noise_std
        Of the Gaussian noise that is added last, drawn anew for each image of a deformed pair.
    smooth
        Soft boundaries.
    seed, split
        With the index they determine the sample; the same seed gives different samples in ``train``, ``val`` and ``test``.
    deform
        Whether the moving image is deformed.
    max_displacement
        Upper bound of the displacement, voxels; None: a tenth of the smallest size.
    control_spacing
        Voxels between the control points of the flow; None: a quarter of the size.
    structures
        Number of ellipsoids inside the body.

    Examples
    --------
    >>> sample = SyntheticEllipsoids((24, 20), deform=True)[3]
    >>> sample["fixed"].shape, sample["field"].shape
    (torch.Size([1, 24, 20]), torch.Size([2, 24, 20]))
    """

    def __init__(
        self,
        image_size: Sequence[int],
        *,
        num_samples: int = 4000,
        noise_std: float = 0.03,
        smooth: bool = True,
        seed: int = 123,
        split: str = "train",
        deform: bool = False,
        max_displacement: float | None = None,
        control_spacing: float | None = None,
        structures: int = STRUCTURES,
    ) -> None:
        if len(image_size) not in (2, 3) or min(image_size) < 8:
            raise DatasetError(f"image_size is {tuple(image_size)}; expected 2 or 3 sizes of at least 8 voxels.")
        if split not in SPLITS:
            raise DatasetError(f"split {split!r} is unknown; {did_you_mean(split, SPLITS)}")
        if num_samples < 0 or noise_std < 0 or structures < 0 or (max_displacement or 0) < 0:
            raise DatasetError(
                f"num_samples {num_samples}, noise_std {noise_std}, structures {structures} and max_displacement {max_displacement} must not be negative."
            )
        self.shape = tuple(map(int, image_size))
        self.num_samples, self.noise_std, self.deform = num_samples, noise_std, deform
        self.seed, self.split = seed, split
        self.phantoms = RandomPhantom(structures, smooth, *(LARGE_BODY if deform else ()))
        self.velocities = RandomVelocity(max_displacement, control_spacing)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The pair number `index`.

        Returns
        -------
        dict
            ``fixed``, ``moving`` (1, *S) float32; if deformed also ``field`` (fixed to moving) and ``inverse_field`` (moving to fixed),
            (ndim, *S) float32 in voxels, and ``fixed_labels``, ``moving_labels`` (1, *S) int16.
        """
        if not 0 <= index < self.num_samples:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, SPLITS[self.split], index])
        phantom = self.phantoms.sample(rng, self.shape)
        grid = identity_grid(self.shape)[0].numpy()
        image, labels = phantom.render(grid)
        if not self.deform:
            both = self._noisy(image, rng)
            return {"moving": both, "fixed": both.clone()}
        velocity = torch.from_numpy(self.velocities.sample(rng, self.shape).field(self.shape))[None]
        forward, backward = (field[0] for field in flow_and_inverse(velocity))
        moving, moving_labels = phantom.render(grid + backward.numpy())
        return {
            "moving": self._noisy(moving, rng),
            "fixed": self._noisy(image, rng),
            "field": forward,
            "inverse_field": backward,
            "moving_labels": torch.from_numpy(moving_labels),
            "fixed_labels": torch.from_numpy(labels),
        }

    def _noisy(self, image: npt.NDArray[np.float32], rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(image + self.noise_std * rng.standard_normal(image.shape, dtype=np.float32))


GENERATORS: Registry[partial[SyntheticEllipsoids]] = Registry("synthetic dataset")
GENERATORS["synthetic_ellipsoids"] = partial(SyntheticEllipsoids)
GENERATORS["deepreg_synthetic"] = partial(SyntheticEllipsoids, deform=True)
