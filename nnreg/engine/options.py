"""What a user may choose of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnreg.engine.constraints import FREE, Constraints
from nnreg.engine.device import engine_device
from nnreg.engine.names import AUTO
from nnreg.engine.presets import Preset, in_planes, preset_named, tailored
from nnreg.engine.similarities import find_similarity
from nnreg.errors import ConfigurationError


@dataclass(frozen=True)
class EngineOptions:
    """How one pair is registered; :func:`nnreg.register` says what each means.

    Raises
    ------
    ConfigurationError
        For an unknown preset or similarity, for a radius or smoothness out of range, for symmetric levels beside regions that keep their volume, and for a
        device that is not there, or that the similarity or the constraints cannot use.
    """

    guided: bool = True
    preset: str = "default"
    similarity: str = AUTO
    alignment: str = "affine"
    affine_only: bool = False
    symmetric: bool | None = None
    radius: float | None = None
    smoothness: float = 1.0
    device: str = "cpu"
    constraints: Constraints = FREE

    def __post_init__(self) -> None:
        named = None if self.similarity == AUTO else find_similarity(self.similarity)
        if self.symmetric and self.constraints.preserve is not None:
            raise ConfigurationError("symmetric levels and regions that keep their volume exclude each other: a region is known on the fixed grid only.")
        if self.constraints.hold and self.on_device is not None:
            raise ConfigurationError(
                f"restricted axes and regions that keep their volume are held on the processor, -device is {self.device!r}. Use -device cpu."
            )
        self.spent(3)
        if self.on_device is not None and named is not None and not named.on_device:
            raise ConfigurationError(f"similarity {named.name!r} takes numpy arrays only, -device is {self.device!r}. Use -device cpu, or another similarity.")

    def check_effect(self, *, initial: bool, landmarks: bool, preserve: bool = False) -> None:
        """Refuse what was chosen and would change nothing: whoever chose it expects that it does.

        A value that is the default cannot be told from none, and is not refused. Not part of making the options: a measure of uncertainty takes those of a
        registration for others of the same pair, which need not use all of them.

        Parameters
        ----------
        initial
            Whether an initial transform is given.
        landmarks
            Whether both sides have landmarks.
        preserve
            Whether regions that keep their volume are given apart from `constraints`.

        Raises
        ------
        ConfigurationError
            It names the option, and why it has no effect.
        """
        held, weighed = self.constraints, self.constraints.landmark_weight != FREE.landmark_weight
        if initial and self.affine_only:
            raise ConfigurationError(
                "affine only: an initial transform takes the place of the linear alignment, so nothing is left to register. Leave one out."
            )
        if initial and self.alignment != EngineOptions.alignment:
            raise ConfigurationError(f"alignment {self.alignment!r}: has no effect, an initial transform takes the place of the alignment. Leave one out.")
        if weighed and not landmarks:
            raise ConfigurationError(f"landmark weight {held.landmark_weight:g}: has no effect without landmarks of both images. Give them, or leave it out.")
        if weighed and not self.guided:
            raise ConfigurationError(f"landmark weight {held.landmark_weight:g}: has no effect where landmarks only measure. Leave one of the two out.")
        if self.radius is not None and self.similarity != AUTO and not find_similarity(self.similarity).windowed:
            raise ConfigurationError(f"radius {self.radius:g}: has no effect, similarity {self.similarity!r} has no windows. Leave it out, or take 'lncc'.")
        if not self.affine_only:
            return
        of_deformation = {
            "similarity": self.similarity != AUTO,
            "symmetric": self.symmetric is not None,
            "radius": self.radius is not None,
            "smoothness": self.smoothness != EngineOptions.smoothness,
            "restrict": held.restrict is not None,
            "preserve": preserve or held.preserve is not None,
            "landmark weight": weighed,
        }
        for name in [name for name, chosen in of_deformation.items() if chosen]:
            raise ConfigurationError(f"{name}: has no effect, it is of the deformable part, which affine only leaves out. Leave one of the two out.")

    @property
    def on_device(self) -> Any:
        """The device of torch that deforms; None for the compiled kernels."""
        return engine_device(self.device)

    def spent(self, ndim: int) -> Preset:
        """The preset with all that was chosen beside it, for images of `ndim` axes."""
        preset = tailored(preset_named(self.preset), self.radius, self.smoothness)
        return in_planes(preset) if ndim == 2 else preset

    def symmetric_from(self, ndim: int) -> int | None:
        """Multiple of the finest spacing from which on levels are refined in both directions; None for none.

        None where regions keep their volume: they are known on the fixed grid only.
        """
        if self.constraints.preserve is not None:
            return None
        if self.symmetric is None:
            return self.spent(ndim).symmetric_from
        return 1 if self.symmetric else None
