"""What a registration achieved: every pair and label before and after, means, robustness, a table and pictures."""

from nnreg.dataset.raw import Case
from nnreg.evaluation.registration.folder import evaluate_folder
from nnreg.evaluation.registration.pair import evaluate_pair
from nnreg.evaluation.summary import summarise, table, write_summary

__all__ = ["Case", "evaluate_folder", "evaluate_pair", "summarise", "table", "write_summary"]
