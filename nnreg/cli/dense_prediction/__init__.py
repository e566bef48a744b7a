"""What the commands print and take for dense prediction."""
