"""Running a training from names."""
