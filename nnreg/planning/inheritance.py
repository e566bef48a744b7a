"""``inherits_from`` in a plans file: a configuration that names only what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnreg.errors import PlansError, did_you_mean

KEY = "inherits_from"
WHOLE = ("kwargs",)  # arguments belong to the name beside them: they are replaced, not merged
OF_THE_ARRAYS = ("spacing", "grid", "normalization")


def resolved(content: Any, where: str) -> Any:
    """The content of a plans file with every configuration complete.

    A configuration takes everything from the one it names, then its own keys on top; what is a list or ``kwargs`` is replaced as a whole.

    Raises
    ------
    PlansError
        If it names no configuration, or itself in a circle, or changes what its arrays are without a ``data_identifier`` of its own.
    """
    configurations = content.get("configurations") if isinstance(content, Mapping) else None
    if not isinstance(configurations, Mapping) or not any(isinstance(entry, Mapping) and KEY in entry for entry in configurations.values()):
        return content
    return {**content, "configurations": {name: _resolved(name, configurations, where, ()) for name in configurations}}


def _resolved(name: str, configurations: Mapping[str, Any], where: str, seen: tuple[str, ...]) -> Any:
    own = configurations[name]
    if not isinstance(own, Mapping) or KEY not in own:
        return own
    parent, place = own[KEY], f"{where}: configurations.{name}"
    if parent not in configurations:
        raise PlansError(f"{place}.{KEY} {parent!r} is no configuration; {did_you_mean(str(parent), configurations)}")
    if parent in (name, *seen):
        raise PlansError(f"{place}.{KEY} {parent!r} leads back to itself. Let one of {', '.join((*seen, name))} stand alone.")
    inherited = _resolved(parent, configurations, where, (*seen, name))
    changes = {key: value for key, value in own.items() if key != KEY}
    changed = [key for key in OF_THE_ARRAYS if key in changes and changes[key] != inherited.get(key)]
    if changed and changes.get("data_identifier", inherited.get("data_identifier")) == inherited.get("data_identifier"):
        raise PlansError(f"{place} changes {changed[0]} but keeps the arrays of {parent!r}. Give it a data_identifier of its own.")
    reasons = {key: f"set by hand over {parent}" for key in _dotted(changes) if key not in ("data_identifier", "because")}
    merged = _merged(inherited, changes)
    return {**merged, "because": {**inherited.get("because", {}), **reasons, **changes.get("because", {})}}


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: value if key in WHOLE else _merged(below.get(key), value) for key, value in above.items()}}


def _dotted(changes: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the changed values, as ``because`` has them."""
    names = []
    for key, value in changes.items():
        name = prefix + key
        names += _dotted(value, f"{name}.") if isinstance(value, Mapping) and key not in (*WHOLE, "because", "augmentation") else [name]
    return names
