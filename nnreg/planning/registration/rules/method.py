"""What predicts new pairs once a fold is trained: its network, the engine going on from the network, or the engine alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnreg.planning.decision import Decision, counted, rule
from nnreg.planning.registration.engine_settings import ENGINE, METHODS, NETWORK, REFINED

FEWEST_COMPARED = 6  # pairs; of fewer, chance cannot be told and the mean decides
CHANCE = 2.0  # standard errors of the mean difference between two methods on the same pairs: 95 % of what chance does
MOST_FOLDING = 0.1  # percent of the voxels, mean over pairs
TITLES = {"dice_after": "Dice", "tre_mm_after": "landmark distance in mm", "ncc_after": "correlation"}


@rule("prediction_method")
def prediction_method(
    figure: str, values: Mapping[str, Sequence[float]], folding: Mapping[str, float], roughness: Mapping[str, float] | None = None
) -> Decision[str]:
    """The network alone, the engine going on from it, or the engine alone: the cheapest that no other beats beyond chance on the validation pairs.

    Compared pair by pair, by Dice where there are labels, else landmarks, else correlation; beyond chance is a mean difference of two standard errors, and any
    difference where there are fewer than six pairs. Of several the ones that fold at most 0.1 % go first. The reason names the `roughness` (SDlogJ) too.
    """
    sign = -1.0 if figure.startswith("tre") else 1.0
    scores = {name: sign * np.asarray(values[name], float) for name in METHODS if name in values}
    fair = [name for name in scores if not any(_better(scores[other], scores[name]) for other in scores)]
    chosen = next((name for name in fair if folding[name] <= MOST_FOLDING), min(fair, key=lambda name: folding[name]))
    told = ", ".join(f"{name} {sign * score.mean():.3f}" for name, score in scores.items())
    told += "" if roughness is None else " (SDlogJ " + ", ".join(f"{roughness[name]:.2f}" for name in scores) + ")"
    why = f"{TITLES.get(figure, figure)} over {counted(len(scores[chosen]), 'validation pair')}: {told}; {_reason(chosen, scores, fair, folding)}"
    return Decision(chosen, why)


@rule("unmeasured_method")
def unmeasured_method(refinement: str | None, supervised: bool, everything: bool, untold: bool = False) -> Decision[str]:
    """Where no validation compared them: the network alone if labels or keypoints taught it and it was trained on every case, or no validation pair has any.

    Else refined as planned.
    """
    if refinement is None:
        return Decision(NETWORK, "the plan has no refinement")
    if untold and supervised:
        told = "refinement by similarity would undo what they taught. Put cases that have them into the validation (splits_final.json)"
        return Decision(NETWORK, f"labels or keypoints taught it, but no validation pair has them, so nothing was compared; {told}")
    if everything and supervised:
        return Decision(NETWORK, "trained on every case, so nothing was compared; refinement by similarity would undo what labels or keypoints taught")
    return Decision(REFINED, f"no validation compared them: refined as planned ({refinement}). nnreg_train ... --val compares them")


def _better(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether `one` is above `other` beyond chance, pair by pair."""
    gain = one - other
    if len(gain) < FEWEST_COMPARED:
        return bool(gain.mean() > 0)
    return bool(gain.mean() > CHANCE * gain.std(ddof=1) / np.sqrt(len(gain)))


def _reason(chosen: str, scores: Mapping[str, np.ndarray], fair: Sequence[str], folding: Mapping[str, float]) -> str:
    rivals = [name for name in fair if name != chosen]
    if not rivals:
        few = len(scores[chosen]) < FEWEST_COMPARED
        return f"{chosen} is best" + (", though these are too few pairs to tell it from chance" if few else " beyond chance")
    alike = f"{chosen} and {' and '.join(rivals)} differ by no more than chance"
    folds = [name for name in rivals if folding[name] > MOST_FOLDING]
    return f"{alike}, and {' and '.join(folds)} folds more than {MOST_FOLDING:g} %" if folds else f"{alike}, and {chosen} takes least time"


__all__ = ["ENGINE", "METHODS", "NETWORK", "REFINED", "prediction_method", "unmeasured_method"]
