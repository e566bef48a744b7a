"""A rule of a package that nnReg knows nothing of: the one that the documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nnreg.errors import ConfigurationError, PlansError
from nnreg.planning.decision import RULES
from nnreg.planning.dense_prediction.planner import plan_dense
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.planner import plan
from nnreg.planning.registration.rules import training

Install = Callable[..., None]
GROUP = "nnreg.rules"
WRONG = """
from nnreg.errors import PlansError


def batch_size(grid, memory_of_one, target):
    return 3


def optimizer():
    raise KeyError("no\\nkey")


def supervision(fingerprint):
    raise PlansError("labels of two scanners cannot be mixed.")
"""


@pytest.fixture
def measured(fingerprint: Callable[..., Fingerprint], image: Callable[..., Any]) -> Fingerprint:
    return fingerprint({name: image((60, 64, 60)) for name in "abcdefghi"})


def test_it_takes_the_place_of_the_one_with_its_name(install: Install, page_code: Callable[[str], str], measured: Fingerprint) -> None:
    ours = plan(measured).configurations["3d_fullres"]
    assert ours.training.epochs * ours.training.iterations_per_epoch > 30_000
    install("queue_package", page_code("how_to_add_a_rule"), GROUP, "length = queue_package:length")
    found = plan(measured).configurations["3d_fullres"]
    assert found.training.epochs * found.training.iterations_per_epoch == 30_000
    assert found.because["training.epochs"].endswith("our queue stops a job after 30000")
    assert found.training.batch_size == ours.training.batch_size
    assert RULES["length"](measured).value[0] == ours.training.epochs


def test_a_name_that_is_no_rule_stops_both_planners(install: Install, measured: Fingerprint) -> None:
    install("misspelt", "", GROUP, "lenght = misspelt:length")
    expected = "rule 'lenght' of the package misspelt takes the place of no rule of nnReg; did you mean 'length'? Mend or remove the package."
    for planned in (lambda: plan(measured), lambda: plan_dense(None)):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError) as caught:
            planned()
        assert str(caught.value) == expected


def test_rules_of_both_tasks_are_known_to_both(install: Install, measured: Fingerprint) -> None:
    install("dense_package", "", GROUP, "dense_patch = dense_package:patch")
    assert plan(measured).configurations


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("batch_size", ((64, 64), 1.0, 8.0), "rule 'batch_size' of the package wrong_package returned a int, expected a Decision. Mend or remove"),
        ("optimizer", (), "rule 'optimizer' of the package wrong_package failed .KeyError: 'no.*key'.. Mend or remove"),
        ("deep_supervision_weights", (3,), "wrong_package: entry point wrong_package:absent cannot be loaded"),
    ],
)
def test_mistakes_are_told_in_one_line(name: str, arguments: tuple[Any, ...], message: str, install: Install) -> None:
    absent = {"deep_supervision_weights": "absent"}
    install("wrong_package", WRONG, GROUP, f"{name} = wrong_package:{absent.get(name, name)}")
    with pytest.raises(ConfigurationError, match=message) as caught:
        getattr(training, name)(*arguments)
    assert "\n" not in str(caught.value)


def test_what_a_rule_says_of_the_data_is_handed_on(install: Install, measured: Fingerprint) -> None:
    install("wrong_package", WRONG, GROUP, "supervision = wrong_package:supervision")
    with pytest.raises(PlansError, match=r"^labels of two scanners cannot be mixed\.$"):
        training.supervision(measured)


def test_two_packages_cannot_give_one_rule(install: Install) -> None:
    for package in ("first_package", "second_package"):
        install(package, "", GROUP, f"optimizer = {package}:optimizer")
    with pytest.raises(ConfigurationError, match=r"rule 'optimizer' is registered by two packages, .*Remove one"):
        training.optimizer()
