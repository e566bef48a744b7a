"""Every citation resolves to an entry of documentation/evidence.md, and nothing cites what no user has."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\[evidence: ([^\]]+)\]")
PRIVATE = re.compile(r"registration_anchors|\banchors [0-9]|\bsources?[ /]00[0-9]|\bspec/\w+\.md|shared/(spec|sources)", re.IGNORECASE)
KEYS = re.findall(r"^\| ([^|]+?) \|.*\|$", (ROOT / "documentation" / "evidence.md").read_text(encoding="utf-8"), re.MULTILINE)[1:]
FOLDERS = ("nnreg", "documentation", "tests", "benchmarks", "nnreg_results_template", ".github")
FILES = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))))
    if path.suffix in {".py", ".md", ".json", ".yaml", ".yml", ".cff", ".txt"} and path != Path(__file__)
]


def _texts(path):
    """What a file says: the file as it stands, and strings of Python joined where they are written in pieces."""
    text = path.read_text(encoding="utf-8")
    yield text
    if path.suffix == ".py":
        yield from (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize("folder", ["nnreg", "nnreg_results_template", "benchmarks"])
def test_citations_resolve(folder):
    for path in FILES:
        if folder in path.relative_to(ROOT).parts[:1]:
            unknown = {key for text in _texts(path) for key in CITED.findall(text)} - set(KEYS)
            assert not unknown, f"{path}: no entry {sorted(unknown)} in documentation/evidence.md"


def test_entries_are_single_and_cited():
    cited = {key for path in FILES if path.suffix == ".py" for text in _texts(path) for key in CITED.findall(text)}
    assert len(set(KEYS)) == len(KEYS)
    assert set(KEYS) <= cited, "entries that nothing cites"


def test_example_run_gives_the_reasons_of_today():
    """The template's reasons cite entries too: they are copies of what the rules say."""
    plans = next((ROOT / "nnreg_results_template").rglob("plans.json"))
    assert set(CITED.findall(json.dumps(json.loads(plans.read_text(encoding="utf-8"))))) <= set(KEYS)


def test_nothing_names_private_sources():
    for path in FILES:
        found = PRIVATE.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found and found[0]}"
