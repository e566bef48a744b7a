"""JSON and YAML of strangers end in one line."""

from __future__ import annotations

import pytest

from nnreg.documents import parse_json, parse_yaml
from nnreg.errors import ConfigurationError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
TWICE_EACH = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25))


def test_plain_documents_are_read():
    assert parse_json('{"a": [1, 2.5, null, {"b": "c"}]}', "f.json") == {"a": [1, 2.5, None, {"b": "c"}]}
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n", "f.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    assert parse_json("3", "f.json") == 3
    assert parse_json(str([[n] for n in range(1000)]), "f.json")[999] == [999]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"b": {"a": 1, "a": 2}}', "the key 'a' is there twice"),
        ("[" * 900 + "]" * 900, "more than 100 deep"),
        ("[" * 200_000, "without end"),
        ("1" * 5000, "4300 digits"),
        ("{", "Expecting property name"),
        ('{"a": [NaN]}', "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        ("[1e400]", "1e400 is no finite number"),
    ],
)
def test_json_that_cannot_be_read_is_told(text, words):
    with pytest.raises(ConfigurationError) as told:
        parse_json(text, "f.json", ConfigurationError)
    assert str(told.value).startswith("f.json: is not valid JSON (")
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "the key 'a' is there twice"),
        ("a: &a [*a]\n", "without end"),
        ("a: &a [*a, *a]\n", "without end"),
        (BOMB, "more than 50 aliases"),
        (TWICE_EACH, "without end"),
        ("[" * 300 + "]" * 300, "deep"),
        ("a: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("a: [1\n", "while parsing"),
        ("\x00", "special characters"),
        ("a: -.inf\n", "-.inf is no finite number"),
        ("a: [.nan]\n", ".nan is no finite number"),
    ],
)
def test_yaml_that_cannot_be_read_is_told(text, words):
    with pytest.raises(ConfigurationError) as told:
        parse_yaml(text, "f.yaml", ConfigurationError)
    assert str(told.value).startswith("f.yaml: is not valid YAML (")
    assert words in str(told.value)
    assert "\n" not in str(told.value)
