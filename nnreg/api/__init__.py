"""What notebooks and scripts call: images as they come, results that show themselves; nothing is global, no environment variable is needed."""
