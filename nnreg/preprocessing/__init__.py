"""From raw images to arrays that networks train on: measure, plan, and for registration align, normalise, resample once, store."""

from nnreg.preprocessing.datasets import fingerprint_dataset, plan_and_preprocess, plan_dataset, preprocess_dataset
from nnreg.preprocessing.plan_files import read_plans

__all__ = ["fingerprint_dataset", "plan_and_preprocess", "plan_dataset", "preprocess_dataset", "read_plans"]
