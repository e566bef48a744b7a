"""Images turned into label maps and continuous values, tile by tile."""
