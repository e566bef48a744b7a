import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from nnreg.errors import PlansError
from nnreg.planning.plans import Plans
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.planner import plan


@pytest.fixture
def brains(fingerprint, image):
    return fingerprint({f"c{i}": image((170, 210, 160), low=(10, 10, 10), high=(150 + i, 195, 150)) for i in range(4)})


def test_small_volumes_get_one_configuration_large_ones_a_cascade(fingerprint, image, brains):
    assert list(plan(fingerprint({"a": image((60, 60, 60)), "b": image((60, 64, 60))})).configurations) == ["3d_fullres"]
    plans = plan(brains)
    assert list(plans.configurations) == ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    second = plans.configurations["3d_cascade_fullres"]
    assert second == dataclasses.replace(plans.configurations["3d_fullres"], previous_stage="3d_lowres", because=second.because)
    assert plans.to_train == "3d_fullres"
    low, full = plans.configurations["3d_lowres"], plans.configurations["3d_fullres"]
    assert 2 * np.prod(low.grid) <= np.prod(full.grid)
    np.testing.assert_allclose(np.multiply(low.grid, low.spacing), np.multiply(full.grid, full.spacing), rtol=0.1)


def test_images_of_two_axes_get_2d(fingerprint, image):
    plans = plan(fingerprint({"a": image((200, 180)), "b": image((190, 180))}))
    assert list(plans.configurations) == ["2d"]
    assert plans.to_train == "2d"


def test_every_derived_value_says_why(brains):
    plans = plan(brains)
    for key in ("pre_alignment", "alignment_target", "alignment_spacing", "reference_case", "recommended", "spacing", "orientation"):
        assert plans.because[key]
    for configuration in plans.configurations.values():
        for key in (
            "spacing",
            "grid",
            "normalization[0]",
            "architecture.strides",
            "architecture.features_per_stage",
            "training.similarity",
            "training.batch_size",
        ):
            assert configuration.because[key]


@pytest.mark.parametrize("target", [8.0, 4.0, 1.5, 0.6])
def test_memory_target_narrows_then_coarsens_and_never_crops(brains, target):
    plans = plan(brains, gpu_memory_target=target)
    full = plans.configurations["3d_fullres"]
    assert full.memory_gb <= target
    unlimited = plan(brains, gpu_memory_target=1000.0).configurations["3d_fullres"]
    shown, wanted = np.multiply(full.grid, full.spacing), np.multiply(unlimited.grid, unlimited.spacing)
    assert (shown > 0.98 * (wanted - np.multiply(8, unlimited.spacing))).all()
    assert full.spacing >= unlimited.spacing


def test_an_impossible_memory_target_is_refused(brains):
    with pytest.raises(PlansError, match="gpu_memory_target"):
        plan(brains, gpu_memory_target=0.1)


def test_target_spacing_can_be_asked_for(brains):
    plans = plan(brains, overwrite_target_spacing=(2.0, 2.0, 3.0))
    assert plans.configurations["3d_fullres"].spacing == (2.0, 2.0, 3.0)
    assert "asked for" in plans.because["spacing"]
    with pytest.raises(PlansError, match="3 positive"):
        plan(brains, overwrite_target_spacing=(2.0, 2.0))


def test_weights_fit_the_fields_of_the_network(brains):
    from nnreg.architecture import build_network

    configuration = plan(brains, overwrite_target_spacing=(4.0, 5.0, 4.0)).configurations["3d_fullres"]
    built = configuration.architecture
    network = build_network(
        built.name,
        channels=1,
        ndim=3,
        strides=built.strides,
        kernel_sizes=built.kernel_sizes,
        features_per_stage=built.features_per_stage,
        blocks_per_stage=built.blocks_per_stage,
        **built.kwargs,
    )
    assert network.field_count == len(configuration.training.deep_supervision_weights)


def test_plans_and_fingerprint_survive_the_disk(tmp_path, brains):
    plans = plan(brains)
    plans.write(tmp_path / "plans.json")
    assert Plans.read(tmp_path / "plans.json") == plans
    brains.write(tmp_path / "fingerprint.json")
    assert Fingerprint.read(tmp_path / "fingerprint.json") == brains


EDITS = [
    (("configurations", "3d_fullres", "spacng"), [1, 1, 1], "did you mean 'spacing'"),
    (("pre_alignmnt",), "rigid", "did you mean 'pre_alignment'"),
    (("pre_alignment",), "afine", "did you mean 'affine'"),
    (("recommended",), "3d_fulres", "did you mean '3d_fullres'"),
    (("reference_case",), None, "reference_case"),
    (("configurations", "3d_fullres", "grid"), [96, 0, 96], "grid"),
    (("configurations", "3d_fullres", "grid"), "large", "expected a list"),
    (("configurations", "3d_fullres", "spacing"), [1.0, 1.0], "expected 3 positive numbers"),
    (("configurations", "3d_fullres", "normalization"), [], "0 schemes for 1 channels"),
    (("configurations", "3d_fullres", "data_identifier"), "../elsewhere", "folder's name"),
    (("configurations", "3d_fullres", "architecture", "features_per_stage"), [8], "one per stage"),
    (("configurations", "3d_fullres", "training", "batch_size"), 0, "batch_size"),
    (("configurations", "3d_fullres", "training", "learning_rate"), -1.0, "learning_rate"),
    (("orientation",), "LPQ", "orientation"),
    (("schema_version",), 99, "schema_version"),
]


@pytest.mark.parametrize(("keys", "value", "message"), EDITS, ids=lambda value: ".".join(value) if isinstance(value, tuple) else None)
def test_a_wrong_edit_is_refused_by_key(tmp_path, brains, keys, value, message):
    path = tmp_path / "plans.json"
    content = plan(brains).to_dict()
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(PlansError) as caught:
        Plans.read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_planning_imports_no_torch():
    modules = "nnreg.planning.registration.planner, nnreg.planning.registration.extract, nnreg.preprocessing.registration.pipeline"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
