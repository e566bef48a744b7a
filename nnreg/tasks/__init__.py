"""The tasks: everything that differs between registration and dense prediction."""
