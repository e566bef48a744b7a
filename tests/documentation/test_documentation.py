"""What the documentation says exists: commands, options, links, Python and JSON examples."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from nnreg.cli import COMMANDS as MODULES
from nnreg.cli import command_name

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "documentation").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted(ROOT.glob("*template/*.md")),
]
COMMANDS = {command_name(module): module for module in MODULES}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def _blocks(language):
    for page in PAGES:
        for indent, found, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield pytest.param(re.sub(f"^{indent}", "", text, flags=re.MULTILINE), id=f"{page.name}: {text.strip().splitlines()[0][:40]}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_commands_exist(page):
    environment = {"raw", "preprocessed", "results", "workspace", "demo", "template", "version"}
    for name in re.findall(r"\bnnreg_([a-z0-9_]+)\b", page.read_text(encoding="utf-8")):
        assert name in COMMANDS or name.split("_")[0] in environment, f"{page}: nnreg_{name}"


def test_every_command_is_documented():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in sorted(COMMANDS) if f"nnreg_{name}" not in text] == []


@pytest.mark.parametrize("text", _blocks("bash"))
def test_options_of_commands_exist(text):
    """Every line that runs one of our commands is understood by its parser."""
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split("#")[0].split()
        if not words or not words[0].startswith("nnreg_"):
            continue
        parser = importlib.import_module(f"nnreg.cli.{COMMANDS[words[0].removeprefix('nnreg_')]}").parser()
        known = {option for action in parser._actions for option in action.option_strings}
        assert {word for word in words[1:] if re.match(r"--?[a-zA-Z]", word)} <= known, line


@pytest.mark.parametrize("text", _blocks("python"))
def test_python_examples_parse_and_import(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nnreg":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("text", _blocks("json"))
def test_json_examples_parse(text):
    json.loads(text if text.lstrip().startswith(("{", "[")) else f"{{{text}}}")


def test_the_site_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "documentation")) for page in (ROOT / "documentation").rglob("*.md")}
    outside = {"contributing.md", "benchmarks.md", "results_template.md"}  # brought in by documentation/site_hooks.py
    assert set(re.findall(r"- ([\w/]+\.md)", text)) == pages | outside


def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    pattern = re.search(r"grep -hE '([^']+)'", text)[1].replace("##", "## ")
    targets = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split()
    listed = {line.split(":")[0] for line in text.splitlines() if re.match(pattern, line)}
    assert listed == set(targets)
