"""What cases are aligned to: the frame's image at the spacing of the alignment, its world, and where the working grid lies in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.documents import understood
from nnreg.errors import PreprocessingError
from nnreg.files import copy_file, read_json, write_json
from nnreg.geometry.space import Space
from nnreg.planning import orientation
from nnreg.planning.registration.foreground import find_foreground
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationPlans
from nnreg.planning.registration.reference_space import Placement, box_of
from nnreg.preprocessing.registration.normalization import normalise

if TYPE_CHECKING:
    from nnreg.imageio import Image

FOLDER = "reference"
IMAGE_FILE = "image.nii.gz"
FRAME_FILE = "frame.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class ReferenceSpace:
    """What the cases of a dataset or group are aligned to.

    Attributes
    ----------
    case : str
        The case that owns the frame; it is not aligned.
    native : Space
        Its grid.
    centre : array, world mm, x first
        Middle of every working grid.
    image : array, shape (C, *space.shape), float32
        Normalised, at the spacing of the alignment.
    space : Space
        Grid of `image`.
    digest : str
        Of the owner's file content: a name may be used twice, an image is itself.
    """

    case: str
    native: Space
    centre: Doubles
    image: npt.NDArray[np.float32]
    space: Space
    digest: str

    @classmethod
    def of(cls, case: str, image: Image, plans: RegistrationPlans, *, centre: Doubles | None = None) -> ReferenceSpace:
        """The frame owned by an image.

        Parameters
        ----------
        case, image
            The owner.
        plans
            Its channels are normalised as planned.
        centre : world mm, optional
            Middle of the working grids; of the owner's foreground with its margin, if absent.
        """
        from nnreg.geometry import resample_image
        from nnreg.planning.registration.extract import measure_image

        configuration = next(iter(plans.configurations.values()))
        array, background = normalise(image.array, find_foreground(image.array), configuration.normalization, case=case)
        if centre is None:
            measured, _ = measure_image(image)
            box = box_of(measured, beyond=plans.alignment_target == "dataset")
            centre = image.space.to_world(box.centre)
        turned = orientation.reoriented(image.space, plans.orientation)
        space = turned.with_spacing(plans.alignment_spacing)
        small = np.concatenate(
            [
                resample_image(channel[None], moving=image.space, fixed=space, outside=level, antialias=True)
                for channel, level in zip(array, background, strict=True)
            ]
        )
        return cls(case, image.space, np.asarray(centre, dtype=float), small, space, digest_of(image))

    def owned_by(self, image: Image) -> bool:
        """Whether `image` is the owner."""
        return image.space.same_as(self.native) and digest_of(image) == self.digest

    def working_space(self, plans: RegistrationPlans, configuration: RegistrationConfiguration) -> Space:
        """The working grid of a configuration in this frame."""
        placement = Placement(plans.orientation, plans.frame_offset, plans.grid_within_image)
        return placement.space(self.native, self.centre, configuration.spacing, configuration.grid)

    def write(self, folder: Path) -> None:
        """Write the frame into ``reference/`` of `folder`."""
        from nnreg.imageio import write_image

        write_image(folder / FOLDER / IMAGE_FILE, self.image, self.space)
        content = {
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "native": self.native.to_dict(),
            "centre": self.centre.tolist(),
            "digest": self.digest,
            "image_space": self.space.to_dict(),
        }
        write_json(folder / FOLDER / FRAME_FILE, content)

    @classmethod
    def read(cls, folder: Path) -> ReferenceSpace:
        """Read the frame from ``reference/`` of `folder`.

        Raises
        ------
        PreprocessingError
            If it is missing or of another version.
        """
        from nnreg.imageio import read_image

        path = folder / FOLDER / FRAME_FILE
        content = read_json(path, PreprocessingError)
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
            raise PreprocessingError(f"{path}: is not a frame of schema version {SCHEMA_VERSION}. Preprocess the dataset again.")
        image = read_image(folder / FOLDER / IMAGE_FILE)
        with understood(path, PreprocessingError, "Preprocess the dataset again."):
            # the header of the image rounds to float32; the JSON does not
            space = Space.from_dict(content["image_space"])
            array = np.asarray(image.array, dtype=np.float32).reshape(-1, *space.shape)
            return cls(content["case"], Space.from_dict(content["native"]), np.asarray(content["centre"], dtype=float), array, space, content["digest"])


def digest_of(image: Image) -> str:
    """SHA-256 of the voxels, whatever type they are stored in."""
    return hashlib.sha256(np.ascontiguousarray(image.array, dtype=np.float32).tobytes()).hexdigest()


def copy_reference(preprocessed: Path, model: Path) -> None:
    """Copy ``reference/`` beside a trained model, so that the model folder is all a prediction needs; nothing where frames are per group."""
    for name in (IMAGE_FILE, FRAME_FILE):
        source = preprocessed / FOLDER / name
        if source.is_file():
            copy_file(source, model / FOLDER / name)
