"""Plans written before training options were told apart by task."""

import json
from pathlib import Path

import pytest

from nnreg.errors import PlansError
from nnreg.planning.plans import Plans
from nnreg.planning.registration.plans import RegistrationPlans, RegistrationTraining

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


def test_one_with_an_effect_is_refused_by_name(older):
    older["configurations"][CONFIGURATION]["training"]["min_labeled_ratio"] = 0.5
    with pytest.raises(PlansError, match="min_labeled_ratio"):
        Plans.from_dict(older)
