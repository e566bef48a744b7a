"""``prediction.json`` of a dense prediction: which cases are finished."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnreg.documents import understood
from nnreg.errors import PredictionError
from nnreg.files import read_object, write_json
from nnreg.inference.dense_prediction.predictor import DensePredictor

PREDICTION_FILE = "prediction.json"
SCHEMA_VERSION = 1
DIGEST = "digest"
"""Key of a case: of the files that it was predicted from."""


class PredictionRecord:
    """``prediction.json``, written again as cases are finished."""

    def __init__(self, path: Path, predictor: DensePredictor, model: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "task": predictor.plans.task,
            "dataset": predictor.plans.dataset_name,
            "model": model,
            "cases": [],
        }
        self._written = -1

    def keep(self, cases: Sequence[str], digest: Callable[[str], str]) -> list[str]:
        """Take over the entries of those `cases` that an earlier record has of the files that are there now; returns which.

        Entries of before tell nothing of their files.

        Raises
        ------
        PredictionError
            If the record is damaged, or by another model: the folder would hold a mixture.
        """
        if not self.path.is_file():
            return []
        earlier = read_object(self.path, PredictionError)
        with understood(self.path, PredictionError, "Predict into another folder, or without --continue_prediction."):
            by = earlier.get("model", self.content["model"])
            entries = {entry["name"]: entry for entry in earlier["cases"]}
            found = [case for case in cases if case in entries and entries[case].get(DIGEST) in (None, digest(case))]
        if by != self.content["model"]:
            told = f"its cases were predicted by model {by}, now it is {self.content['model']}"
            raise PredictionError(f"{self.path}: {told}. Predict into another folder, or without --continue_prediction.")
        self.content["cases"] = [entries[case] for case in found]
        return found

    def add(self, entry: dict[str, Any]) -> int:
        """Returns how many there are. Not each is written: the time of a long list would grow with its square."""
        bisect.insort(self.content["cases"], entry, key=lambda one: str(one["name"]))
        count = len(self.content["cases"])
        if count - self._written >= max(1, count // 100):
            self.write()
        return count

    def write(self) -> None:
        """Write what is not yet written."""
        if self._written != len(self.content["cases"]) or not self.path.is_file():
            write_json(self.path, self.content)
            self._written = len(self.content["cases"])
