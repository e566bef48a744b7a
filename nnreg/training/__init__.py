"""Training: the trainer, its recipes, data loading, augmentation, schedules and logs."""
