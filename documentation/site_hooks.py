"""Bring pages that lie outside of this folder into the site, under the names that its navigation has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "benchmarks/README.md": "benchmarks.md", "nnreg_results_template/README.md": "results_template.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, with the pictures beside them."""
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, content=_inside((ROOT / source).read_text(encoding="utf-8"), source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to the pages that were brought in."""
    for source, target in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({target}")
    return markdown


def _inside(text: str, source: str) -> str:
    """Links of a page as they are seen from the documentation: those into it are kept, others are words."""
    folder = (ROOT / source).parent
    parts = text.split("](")
    for index, part in enumerate(parts[1:], start=1):
        target, closing, rest = part.partition(")")
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve()
        if "://" in target or not name:
            continue
        if path.suffix == ".md" and path.parent == ROOT / "documentation":
            parts[index] = f"{path.name}{'#' + anchor if anchor else ''}{closing}{rest}"
        else:
            parts[index] = f"{OUTSIDE.get(str(path.relative_to(ROOT)), 'README.md')}{closing}{rest}"
    return "](".join(parts)
