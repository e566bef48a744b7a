"""What the documentation says exists: commands, options, links, Python and JSON examples."""

import importlib
import json
import re
import shlex
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


def _parser(command):
    return importlib.import_module(f"nnreg.cli.{COMMANDS[command]}").parser()


def _typed(line):
    """Command and arguments of ours in a line, whatever starts it: a launcher, a container, ``nnreg register``, ``python -m nnreg.cli.register``."""
    words = shlex.split(line, comments=True)
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word.startswith("nnreg_") and word.removeprefix("nnreg_") in COMMANDS:
            return word.removeprefix("nnreg_"), words[position + 1 :]
        if word == "nnreg" and following in COMMANDS:
            return following, words[position + 2 :]
        if word == "-m" and following.startswith("nnreg.cli."):
            return command_name(following.removeprefix("nnreg.cli.")), words[position + 2 :]
    return None


@pytest.mark.parametrize("text", _blocks("bash"))
def test_commands_are_understood_by_their_parsers(text, capsys):
    """Every line is parsed as it would be when typed, by the parser of its command."""
    for line in text.replace("\\\n", " ").splitlines():
        typed = _typed(line)
        if typed is None or line.lstrip().startswith("#"):
            continue
        command, arguments = typed
        arguments = arguments[: next((at for at, word in enumerate(arguments) if word in (">", "|", "&&")), None)]
        try:
            _parser(command).parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_named_in_sentences_exist(page):
    """Of commands in backticks, which may be cut short."""
    for span in re.findall(r"(?<!`)`(nnreg_[^`\n]+)`", page.read_text(encoding="utf-8")):
        command, *words = re.split(r"[\s=|]+", span)
        name = command.removeprefix("nnreg_")
        if name in COMMANDS:
            known = {option for action in _parser(name)._actions for option in action.option_strings}
            assert {word.rstrip(",.") for word in words if re.match(r"--?[a-zA-Z]", word)} <= known, span


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
