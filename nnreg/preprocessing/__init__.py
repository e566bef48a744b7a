"""From raw images to arrays on the working grid: align, normalise, resample once, store."""

from nnreg.preprocessing.pipeline import fingerprint_dataset, plan_and_preprocess, plan_dataset, preprocess_dataset, read_plans

__all__ = ["fingerprint_dataset", "plan_and_preprocess", "plan_dataset", "preprocess_dataset", "read_plans"]
