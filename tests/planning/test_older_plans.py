"""Plans and fingerprints written under former names."""

import json
from pathlib import Path

import pytest

from nnreg.errors import PlansError
from nnreg.planning.plans import Plans
from nnreg.planning.registration.pair_fingerprint import Stages
from nnreg.planning.registration.plans import RegistrationPlans, RegistrationTraining
from nnreg.typed import from_mapping, to_mapping

TEMPLATE = Path(__file__).parents[2] / "nnreg_results_template"
CONFIGURATION = "3d_fullres"


@pytest.fixture
def older():
    """The template's plans with the options of dense prediction, as every plans file had them."""
    content = json.loads(next(TEMPLATE.glob("*/*/plans.json")).read_text(encoding="utf-8"))
    content["configurations"][CONFIGURATION]["training"] |= {"loss_on_label_only": False, "min_labeled_ratio": 0.0, "min_bbox_percent": 0.0}
    return content


def test_options_of_the_other_task_without_effect_are_dropped(older):
    plans = Plans.from_dict(older)
    assert isinstance(plans, RegistrationPlans)
    assert isinstance(plans.configuration(CONFIGURATION).training, RegistrationTraining)
    assert "min_labeled_ratio" not in plans.to_dict()["configurations"][CONFIGURATION]["training"]


def test_plans_from_before_regions_show_the_whole_frame_on_one_grid(older):
    older.pop("frame_offset", None), older.pop("grid_within_image", None)
    plans = Plans.from_dict(older)
    assert plans.frame_offset is None
    assert not plans.grid_within_image


@pytest.mark.parametrize(
    ("changed", "key"), [({"frame_offset": [1.0]}, "frame_offset"), ({"grid_within_image": True, "alignment_target": "dataset", "reference_case": "a"}, "grid")]
)
def test_a_grid_that_cannot_be_placed_is_refused(older, changed, key):
    with pytest.raises(PlansError, match=key):
        Plans.from_dict(older | changed)


def test_one_with_an_effect_is_refused_by_name(older):
    older["configurations"][CONFIGURATION]["training"]["min_labeled_ratio"] = 0.5
    with pytest.raises(PlansError, match="min_labeled_ratio"):
        Plans.from_dict(older)


def test_measures_of_pairs_are_read_under_their_former_names():
    read = from_mapping(Stages, {"before": 0.25, "aligned": 0.5, "after": None}, where="fingerprint", error=PlansError)
    assert read == Stages(header=0.25, aligned=0.5, after=None)
    assert to_mapping(read) == {"header": 0.25, "aligned": 0.5, "after": None}
