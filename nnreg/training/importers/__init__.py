"""Run descriptions of other programs, turned into a dataset, plans and a TrainerConfig."""

from nnreg.training.importers.reading import read_run
from nnreg.training.importers.run import ImportedRun, import_run, plan_run

__all__ = ["ImportedRun", "import_run", "plan_run", "read_run"]
