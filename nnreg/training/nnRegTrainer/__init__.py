"""``nnreg.training.nnRegTrainer.nnRegTrainer``: the trainer where users of nnU-Net look for it."""
