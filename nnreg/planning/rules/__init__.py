"""The rules: each a pure function that decides one value and says why; the only place where a default is decided."""

from nnreg.planning.rules import alignment, budget, grid, intensity, network, optimisation, relation, spacing, training
from nnreg.planning.rules.decision import RULES, Decision, rule

__all__ = ["RULES", "Decision", "alignment", "budget", "grid", "intensity", "network", "optimisation", "relation", "rule", "spacing", "training"]
