"""The default network: one encoder for both images, and a decoder that refines the field from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import Convolution, FlowHead, Stage, convolution, initialise
from nnreg.architecture.correlation import local_correlation, normalised
from nnreg.architecture.pyramid import field_stages, finer_field
from nnreg.errors import ConfigurationError
from nnreg.geometry import compose, integrate, resize, warp

HALF_STEP_INTEGRATION = 5  # steps for the velocity of one level, which is of the order of a voxel: 1/32 voxel per step


class _Level(nn.Module):
    """Flow of one level from the features of both images, their local correlation and the field so far."""

    def __init__(self, ndim: int, features: int, kernel: Sequence[int], radius: int) -> None:
        super().__init__()
        self.radius = radius
        inputs = 2 * features + (2 * radius + 1) ** ndim + ndim
        self.convolutions = nn.Sequential(Convolution(ndim, inputs, features, kernel), Convolution(ndim, features, features, kernel))
        self.head = FlowHead(ndim, features, kernel)

    def forward(self, fixed: Tensor, moving: Tensor, field: Tensor) -> Tensor:
        """Voxels of this level; features (B, C, *spatial), the moving ones already warped by `field`."""
        correlation = local_correlation(normalised(fixed), normalised(moving), self.radius)
        return self.head(self.convolutions(torch.cat([fixed, moving, correlation, field], dim=1)))


class _Segmentation(nn.Module):
    """A decoder from the features of single images to logits: coarse to fine, with the encoder's features of each level."""

    def __init__(self, ndim: int, widths: Sequence[int], kernels: Sequence[Sequence[int]], outputs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Convolution(ndim, fine + coarse, fine, kernel) for (fine, coarse), kernel in zip(pairwise(widths), kernels))
        self.head = convolution(ndim)(widths[0], outputs, 1)

    def forward(self, pyramid: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Logits (B, outputs, *shape), float32, of features finest first."""
        features = pyramid[-1]
        for level, own in reversed(list(zip(self.levels, pyramid))):
            features = level(torch.cat([own, resize(features, own.shape[2:])], dim=1))
        return resize(self.head(features), shape)


@NETWORKS.register("dual_pyramid")
class DualPyramid(RegistrationNetwork):
    """Weight-shared residual encoder on both images; a decoder that warps, correlates and refines from coarse to fine.

    At each level the field so far is brought to the level's grid, the moving features are warped by it, and a residual flow is found from
    both images' features, their local correlation and the field. The residual is composed with the field, not added to it. The coarsest
    level thus sees the large motion, and each finer one only what is left: about a voxel of its own.

    Parameters
    ----------
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``. A stage is one strided convolution and its residual blocks.
    field_resolution
        Stride of the finest level relative to the input; the full field is that one interpolated. With 2, nothing is computed at full
        resolution: the encoder starts with a strided convolution, and the entries of stage 0 are not used.
    correlation_radius
        Search radius of a level, in its voxels.
    integration_steps
        0 takes a level's residual as a displacement; more takes it as a velocity and integrates it, so that no level folds.
    inverse_consistent
        Symmetric by construction (after SITReg, Honkamaa and Marttinen 2023): both images are mapped to a space halfway, a level's
        velocity is the difference of the two orders, and swapping the images inverts the field, up to interpolation. Costs about a half more.
    segmented_labels
        How many labels a second decoder tells apart in each image by itself, from the same features; 0 for none. A call does not use it:
        :meth:`with_segmentation` does.
    """

    def __init__(
        self,
        *,
        channels: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        deep_supervision: bool = True,
        field_resolution: int = 2,
        correlation_radius: int = 1,
        integration_steps: int = 0,
        inverse_consistent: bool = False,
        segmented_labels: int = 0,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        if correlation_radius < 1 or integration_steps < 0:
            raise ConfigurationError(
                f"dual_pyramid needs correlation_radius >= 1 and integration_steps >= 0, found {correlation_radius} and {integration_steps}."
            )
        finest, self.field_strides = field_stages(strides, field_resolution)
        # from one level to the next; the first leads from the input to the finest level
        self.strides = [self.field_stride, *(tuple(stride) for stride in strides[finest + 1 :])]
        self.integration_steps, self.inverse_consistent = integration_steps, inverse_consistent
        features, kernels = features_per_stage[finest:], kernel_sizes[finest:]
        self.stages = nn.ModuleList(
            Stage(ndim, before, after, kernel, stride, blocks)
            for (before, after), kernel, stride, blocks in zip(pairwise([channels, *features]), kernels, self.strides, blocks_per_stage[finest:])
        )
        self.levels = nn.ModuleList(_Level(ndim, width, kernel, correlation_radius) for width, kernel in zip(features, kernels))
        self.segmentation = _Segmentation(ndim, features, kernels, 1 + segmented_labels) if segmented_labels else None
        initialise(self)

    @property
    def field_count(self) -> int:
        """One per level, and the full resolution where the finest level is coarser."""
        return len(self.levels) + (max(self.strides[0]) > 1)

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields, finest first; the coarser ones only with deep supervision."""
        return self._decoded(self._pyramid(fixed, moving), fixed.shape[2:])

    def with_segmentation(self, *, fixed: Tensor, moving: Tensor) -> tuple[list[Tensor], Tensor]:
        """As a call, and the logits (2 B, 1 + labels, *spatial) of the fixed images, then of the moving ones, background first."""
        if self.segmentation is None:
            raise ConfigurationError("dual_pyramid was built without segmented_labels, so it segments nothing.")
        pyramid, shape = self._pyramid(fixed, moving), fixed.shape[2:]
        fields = self._decoded(pyramid, shape)
        return fields if self.deep_supervision else fields[:1], self.segmentation(pyramid, shape)

    def _pyramid(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Features of both images as one batch, finest first."""
        pyramid = []
        features = torch.cat([fixed, moving])  # one batch: shared weights, and one call instead of two
        for stage in self.stages:
            features = stage(features)
            pyramid.append(features)
        return pyramid

    def _decoded(self, pyramid: list[Tensor], shape: Sequence[int]) -> list[Tensor]:
        found = self._symmetric(pyramid) if self.inverse_consistent else self._coarse_to_fine(pyramid)
        return self._at_all_resolutions(found, tuple(shape))

    def _coarse_to_fine(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Fields of all levels on their own grids, finest first."""
        found: list[Tensor] = []
        for index in reversed(range(len(pyramid))):
            fixed, moving = pyramid[index].chunk(2)
            if not found:
                field = torch.zeros(fixed.shape[0], self.ndim, *fixed.shape[2:], device=fixed.device)
                found.append(self._flow(index, fixed, moving, field))
                continue
            field = finer_field(found[0], self.strides[index + 1], fixed.shape[2:])
            found.insert(0, compose(field, self._flow(index, fixed, warp(moving, field), field)))
        return found

    def _flow(self, index: int, fixed: Tensor, moving: Tensor, field: Tensor) -> Tensor:
        flow: Tensor = self.levels[index](fixed, moving, field)
        return integrate(flow, self.integration_steps) if self.integration_steps else flow

    def _symmetric(self, pyramid: list[Tensor]) -> list[Tensor]:
        """As `_coarse_to_fine`, through a space halfway between the images.

        With E the flow of a level's velocity, the map from halfway to the moving image gains an E at its inner end, the map to the fixed
        image its inverse, which is the flow of the negated velocity; the maps from the images to halfway gain the same at their outer end.
        Nothing is inverted numerically; what remains is the error of interpolation, which a velocity that is smooth on its grid keeps
        small. Batches hold the fixed image's maps first, then the moving image's.
        """
        found: list[Tensor] = []
        outwards = inwards = torch.zeros(pyramid[-1].shape[0], self.ndim, *pyramid[-1].shape[2:], device=pyramid[-1].device)
        for index in reversed(range(len(pyramid))):
            features = pyramid[index]
            if found:
                both = finer_field(torch.cat([outwards, inwards]), self.strides[index + 1], features.shape[2:])
                outwards, inwards = both.chunk(2)
                features = warp(features, outwards)
            # first against second image, and second against first, in one batch
            raw = self.levels[index](features, _swapped(features), _swapped(outwards) - outwards)
            half = _smoothed(0.5 * (raw - _swapped(raw)))
            flow = integrate(-half, self.integration_steps or HALF_STEP_INTEGRATION)
            outwards, inwards = compose(outwards, flow), compose(_swapped(flow), inwards)
            found.insert(0, compose(outwards.chunk(2)[1], inwards.chunk(2)[0]))
        return found


def _smoothed(field: Tensor) -> Tensor:
    """Two passes of (1, 2, 1) / 4 along every axis."""
    for axis in range(2, field.ndim):
        size = field.shape[axis]
        for _ in range(2):
            before = torch.cat([field.narrow(axis, 0, 1), field.narrow(axis, 0, size - 1)], dim=axis)
            after = torch.cat([field.narrow(axis, 1, size - 1), field.narrow(axis, size - 1, 1)], dim=axis)
            field = 0.5 * field + 0.25 * (before + after)
    return field


def _swapped(batch: Tensor) -> Tensor:
    """The second half of a batch first."""
    first, second = batch.chunk(2)
    return torch.cat([second, first])
