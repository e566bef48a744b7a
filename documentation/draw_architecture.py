"""Draw documentation/architecture.png: the rooms of nnreg by floor, and their imports as arrows.

Run from anywhere: ``python documentation/draw_architecture.py``. It reads the source and imports nothing of nnreg.
"""

import ast
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("kernels", "geometry", "imageio"),
    ("dataset", "losses", "metrics", "architecture"),
    ("engine", "planning"),
    ("preprocessing",),
    ("training", "inference", "evaluation"),
    ("api", "groups", "report", "tasks"),
    ("cli",),
)
WIDTH, HEIGHT, BOX, TALL = 12.0, 1.5, (1.7, 0.62), 9.5


def _named(node: ast.AST) -> list[str]:
    """Modules of nnreg that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("nnreg.")]
    if isinstance(node, ast.ImportFrom) and node.module == "nnreg":
        return [f"nnreg.{alias.name}" for alias in node.names]
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnreg."):
        return [str(node.module)]
    return []


def imports() -> Counter[tuple[str, str]]:
    """Number of import statements from one room to another."""
    rooms = {room for floor in FLOORS for room in floor}
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted((ROOT / "nnreg").rglob("*.py")):
        room = path.relative_to(ROOT / "nnreg").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _named(node):
                target = name.split(".")[1]
                if room in rooms and target in rooms and target != room:
                    found[room, target] += 1
    return found


def draw(path: Path) -> None:
    """Boxes by floor, an arrow from each room to each it imports, as wide as the imports are many."""
    places = {
        room: (WIDTH * (index + 1) / (len(floor) + 1) + (0.9 if level % 2 else -0.5), level * HEIGHT)
        for level, floor in enumerate(FLOORS)
        for index, room in enumerate(floor)
    }
    figure, axes = pyplot.subplots(figsize=(WIDTH, TALL))
    counted = imports()
    for (room, target), number in sorted(counted.items(), key=lambda item: item[1]):
        (x, y), (u, v) = places[room], places[target]
        same = y == v
        half = BOX[1] / 2
        side = BOX[0] / 2 if u > x else -BOX[0] / 2
        start, end = ((x + side, y), (u - side, v)) if same else ((x, y - half), (u, v + half))
        bend = "arc3,rad=0" if same else f"arc3,rad={0.06 * (1 if u > x else -1)}"
        colour = pyplot.get_cmap("tab20")(sorted(places).index(room) % 20)
        arrow = FancyArrowPatch(start, end, connectionstyle=bend, arrowstyle="-|>", mutation_scale=11, lw=0.5 + number / 8, color=colour, alpha=0.65)
        axes.add_patch(arrow)
    for room, (x, y) in places.items():
        colour = pyplot.get_cmap("tab20")(sorted(places).index(room) % 20)
        box = FancyBboxPatch((x - BOX[0] / 2, y - BOX[1] / 2), *BOX, boxstyle="round,pad=0.02", facecolor="white", edgecolor=colour, lw=2.5, zorder=3)
        axes.add_patch(box)
        axes.text(x, y, room, ha="center", va="center", fontsize=12, zorder=4)
    for level in range(len(FLOORS)):
        axes.text(-0.2, level * HEIGHT, f"floor {level}", va="center", fontsize=11, color="grey")
    widths = (1, 10, 30)
    for index, number in enumerate(widths):
        y = (len(FLOORS) - 1) * HEIGHT - 0.3 * index
        axes.plot((9.6, 10.4), (y, y), color="grey", lw=0.5 + number / 8)
        axes.text(10.55, y, f"{number} import{'s' if number > 1 else ''}", va="center", fontsize=9, color="grey")
    axes.set(xlim=(-0.4, WIDTH), ylim=(-0.6, (len(FLOORS) - 1) * HEIGHT + 0.6))
    axes.axis("off")
    figure.savefig(path, dpi=90, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    target = Path(__file__).with_name("architecture.png")
    draw(target)
    print(target)
