"""Measures, pictures and postprocessing of label maps and continuous values."""
