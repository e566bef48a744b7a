"""Values as files of other programs write them: numbers, lists and truth as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "none": None}


def values_of(content: Any) -> Any:
    """`content` with every text that looks like a number, a list or a truth value turned into one.

    Examples
    --------
    >>> values_of({"lr": "1e-4", "class_weights": "[0.3, 0.7]", "nesterov": "true", "epochs": "100", "name": "Adam"})
    {'lr': 0.0001, 'class_weights': [0.3, 0.7], 'nesterov': True, 'epochs': 100, 'name': 'Adam'}
    """
    if isinstance(content, Mapping):
        return {str(key): values_of(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [values_of(value) for value in content]
    return _value(content.strip()) if isinstance(content, str) else content


def _value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    if text[:1] in "[{":
        try:
            return values_of(json.loads(text))
        except json.JSONDecodeError:
            return text
    return text


def camel_case(text: str) -> str:
    """A name that a dataset folder may have.

    Examples
    --------
    >>> camel_case("my-first_run 2.1"), camel_case("...")
    ('MyFirstRun21', 'Imported')
    """
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text).split()
    return "".join(word[:1].upper() + word[1:] for word in words) or "Imported"
