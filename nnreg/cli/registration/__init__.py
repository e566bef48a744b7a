"""What the commands print and take for registration."""
