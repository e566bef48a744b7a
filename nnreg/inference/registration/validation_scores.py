"""What trained networks of a dataset reached on the pairs they were validated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnreg.dataset.pairs import Pair
from nnreg.documents import understood
from nnreg.errors import EvaluationError
from nnreg.files import read_object
from nnreg.inference.registration.method import read_record
from nnreg.planning.plans import Plans
from nnreg.planning.registration.engine_settings import REFINED
from nnreg.planning.registration.plans import registration_plans

SUMMARY = "validation_summary.json"


@dataclass(frozen=True)
class Trained:
    """A trained configuration.

    Attributes
    ----------
    name
        ``trained CONFIGURATION (TRAINER)``.
    configuration
        Of the plans.
    figures
        Name of a pair to the figures of the evaluation, and seconds: of the refined network on the pairs where validation compared it and it won, else of
        the network alone. Always of the network alone where labels guide the engine: what it is ranked beside is not guided.
    """

    name: str
    configuration: str
    figures: dict[str, dict[str, float | None]]


def trained_networks(results: Path, plans: Plans, figure: str, pairs: Sequence[Pair]) -> list[Trained]:
    """Networks trained with these plans, those validated on most of `pairs` first; folds of a network are joined.

    ``fold_all`` does not count: it was trained on the pairs it was validated on.

    Parameters
    ----------
    results
        Of the dataset.
    figure
        That a pair must have to count.
    pairs
        The pairs that are of interest.

    Raises
    ------
    EvaluationError
        If a summary is damaged.
    """
    wanted, guided = {pair.name for pair in pairs}, registration_plans(plans).optimisation.guides > 0
    found = []
    for configuration in plans.configurations:
        for model in sorted(results.glob(f"*__{plans.plans_name}__{configuration}")):
            figures: dict[str, dict[str, float | None]] = {}
            for path in sorted(model.glob(f"fold_[0-9]*/{SUMMARY}")):
                known = (None if guided else _refined(path.parent, figure)) or _figures(path)
                figures |= {name: values for name, values in known.items() if name in wanted and values.get(figure) is not None}
            if figures:
                found.append(Trained(f"trained {configuration} ({model.name.split('__')[0]})", configuration, figures))
    return sorted(found, key=lambda network: (-len(network.figures), network.name))


def _refined(fold: Path, figure: str) -> dict[str, dict[str, float | None]] | None:
    """What the refined network reached, where validation found it best by this figure: a prediction refines."""
    record = read_record(fold)
    if record is None or record.method != REFINED or record.figure != figure:
        return None
    columns = record.measured[REFINED]
    return {name: {key: column[index] for key, column in columns.items()} for index, name in enumerate(record.pairs)}


def _figures(path: Path) -> dict[str, dict[str, float | None]]:
    content = read_object(path, EvaluationError)
    with understood(path, EvaluationError, "Validate the fold again: nnreg_train ... --val."):
        return {pair["name"]: {**pair["metrics"], "seconds": pair.get("seconds")} for pair in content["pairs"]}
