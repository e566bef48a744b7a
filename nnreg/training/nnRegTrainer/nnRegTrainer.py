"""The trainer, under the path that users of nnU-Net know."""

from nnreg.training.trainer.trainer import nnRegTrainer

__all__ = ["nnRegTrainer"]
