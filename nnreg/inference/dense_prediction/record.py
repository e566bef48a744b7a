"""``prediction.json`` of a dense prediction: which cases are finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnreg.documents import understood
from nnreg.errors import PredictionError
from nnreg.files import read_object, write_json
from nnreg.inference.dense_prediction.predictor import DensePredictor

PREDICTION_FILE = "prediction.json"
SCHEMA_VERSION = 1


class PredictionRecord:
    """``prediction.json``, written anew with every case."""

    def __init__(self, path: Path, predictor: DensePredictor, model: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "task": predictor.plans.task,
            "dataset": predictor.plans.dataset_name,
            "model": model,
            "cases": [],
        }

    def keep(self, cases: Sequence[str]) -> list[str]:
        """Take over the entries of those `cases` that an earlier record has; returns which."""
        with understood(self.path, PredictionError, "Predict into another folder, or without --continue_prediction."):
            earlier = {entry["name"]: entry for entry in read_object(self.path, PredictionError)["cases"]} if self.path.is_file() else {}
        found = [case for case in cases if case in earlier]
        self.content["cases"] = [earlier[case] for case in found]
        return found

    def add(self, entry: dict[str, Any]) -> int:
        """Returns how many there are."""
        self.content["cases"] = sorted([*self.content["cases"], entry], key=lambda one: str(one["name"]))
        write_json(self.path, self.content)
        return len(self.content["cases"])
