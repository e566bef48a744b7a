"""Names that plans and commands share with the engine; nothing heavy is imported here."""

from __future__ import annotations

ALIGNMENTS = ("none", "centre", "rigid", "affine")  # linear maps, the freer ones later
AUTO = "auto"  # the similarity is chosen from the pair
