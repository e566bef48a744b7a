"""A similarity of a package that nnReg knows nothing of: the one that the documentation shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import nnreg
from nnreg.engine.similarities import SIMILARITIES, find_similarity, similarity_names
from nnreg.errors import ConfigurationError
from nnreg.geometry import Transform
from nnreg.planning.registration import tuning
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.rules import relation
from nnreg.registry import installed
from tests.engine.pairs import error_voxels, known_pair

Install = Callable[..., None]


@pytest.fixture
def charbonnier(install: Install, page_code: Callable[[str], str]) -> None:
    install("charbonnier_package", page_code("how_to_add_a_similarity"), "nnreg.similarities", "charbonnier = charbonnier_package:CHARBONNIER")


def test_it_registers(charbonnier: None) -> None:
    pair = known_pair(2, seed=3)
    found = nnreg.register(fixed=pair[0], moving=pair[1], similarity="charbonnier", preset="fast")
    assert found.similarity == "charbonnier"
    assert found.similarity_after > found.similarity_before
    assert error_voxels(found.transform, pair[4], pair[0]) < error_voxels(Transform.identity(2), pair[4], pair[0])


def test_its_gradient_is_exact(charbonnier: None) -> None:
    from charbonnier_package import Charbonnier  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    fixed, warped = rng.random((2, 2, 3, 4, 5))
    term, gradient = Charbonnier(fixed), np.empty_like(warped)
    term.restrict((rng.random((3, 4, 5)) > 0.3).astype(float))
    term(warped, gradient)
    direction = rng.normal(size=warped.shape)
    ahead, behind = (term(warped + step * direction, np.empty_like(warped)) for step in (1e-5, -1e-5))
    assert (ahead - behind) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_it_can_be_planned_and_is_tried_where_it_suits(charbonnier: None) -> None:
    assert "charbonnier" in similarity_names()
    assert "similarity charbonnier" in tuning.alternatives(Optimisation(similarity="lncc"), relation.ONE)
    assert "similarity charbonnier" not in tuning.alternatives(Optimisation(similarity="nmi"), relation.DIFFERENT)


def test_without_the_package_it_is_unknown() -> None:
    assert "charbonnier" not in {*similarity_names(), *SIMILARITIES}
    with pytest.raises(ConfigurationError, match="'charbonnier' is unknown"):
        find_similarity("charbonnier")


def test_mistakes_are_told_in_one_line(install: Install, charbonnier: None) -> None:
    install("other", "", "nnreg.similarities", "charbonnier = other:X", "lncc = other:X", "absent = other:X", "module = other")
    install("broken", "raise RuntimeError('no\\nlicence')", "nnreg.similarities", "licensed = broken:X")
    for name, *messages in (
        ("charbonnier", "charbonnier_package", "other", "registered by two packages", "Remove one"),
        ("lncc", "of the package other", "nnReg has that name already", "Rename"),
        ("absent", "of the package other: entry point other:X cannot be loaded", "Mend or remove"),
        ("module", "is a module, expected an EngineSimilarity", "Mend or remove"),
        ("licensed", "of the package broken", "RuntimeError: no licence", "Mend or remove"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            find_similarity(name)
        told = str(caught.value)
        assert "\n" not in told
        assert all(message in told for message in (repr(name), *messages)), told
    assert find_similarity("mse").name == "mse"  # one broken package does not stop the others
    with pytest.raises(ConfigurationError, match="registered by two packages"):
        installed("similarity", "nnreg.similarities")
