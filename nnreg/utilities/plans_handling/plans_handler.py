"""nnU-Net's way to read plans; :class:`nnreg.planning.plans.Plans` is ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnreg.planning.plans import Configuration, Plans


class PlansManager:
    """Plans of any task by nnU-Net's names.

    Parameters
    ----------
    plans_file_or_dict
        A plans file, or its parsed content.

    Attributes
    ----------
    plans : Plans
        What all of this is read from.

    Raises
    ------
    PlansError
        If it cannot be read as plans.
    """

    def __init__(self, plans_file_or_dict: str | Path | Mapping[str, Any]) -> None:
        self.plans = Plans.from_dict(dict(plans_file_or_dict)) if isinstance(plans_file_or_dict, Mapping) else Plans.read(plans_file_or_dict)

    @property
    def dataset_name(self) -> str:
        """Of the dataset that the plans are for."""
        return self.plans.dataset_name

    @property
    def plans_name(self) -> str:
        """Of the plans file."""
        return self.plans.plans_name

    @property
    def available_configurations(self) -> list[str]:
        """Names of the configurations."""
        return list(self.plans.configurations)

    def get_configuration(self, configuration_name: str) -> Configuration:
        """The configuration of a name.

        Raises
        ------
        PlansError
            If the plans have none of that name.
        """
        return self.plans.configuration(configuration_name)
