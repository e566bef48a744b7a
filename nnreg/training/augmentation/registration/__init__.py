"""Augmentation of pairs: samplers that draw, and deterministic twins that apply, so that every draw can be replayed, inverted and tested."""

from nnreg.training.augmentation.intensity import IntensityChange, RandomIntensity
from nnreg.training.augmentation.registration.affine import VoxelAffine
from nnreg.training.augmentation.registration.pair import AUGMENTATIONS, PairAugmentation, PairDraw, build_augmentation
from nnreg.training.augmentation.registration.sample import PairSample
from nnreg.training.augmentation.registration.spatial import RandomAffine
from nnreg.training.augmentation.registration.synthesis import RandomSynthesis, Synthesis

__all__ = [
    "AUGMENTATIONS",
    "IntensityChange",
    "PairAugmentation",
    "PairDraw",
    "PairSample",
    "RandomAffine",
    "RandomIntensity",
    "RandomSynthesis",
    "Synthesis",
    "VoxelAffine",
    "build_augmentation",
]
