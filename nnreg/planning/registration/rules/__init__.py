"""The rules: each a pure function that decides one value and says why; the only place where a default is decided."""

from nnreg.planning.decision import RULES, Decision, rule
from nnreg.planning.registration.rules import alignment, budget, grid, intensity, method, network, relation, spacing, training
from nnreg.planning.registration.rules import engine as optimisation

__all__ = ["RULES", "Decision", "alignment", "budget", "grid", "intensity", "method", "network", "optimisation", "relation", "rule", "spacing", "training"]
