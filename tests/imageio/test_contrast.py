"""What names of files say of contrasts."""

import pytest

from nnreg.imageio.contrast import contrast_named, told_apart


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_T1w.nii.gz", "T1"),
        ("BraTS-001-t1c.nii.gz", "T1"),
        ("Study3_FLAIRreg_0000.nii.gz", "FLAIR"),
        ("sub-01_acq-3D_T2starw.nii", "T2*"),
        ("abdomen_CT.mha", "CT"),
        ("3DCT_lung.mha", None),
        ("patient_t1.nii.gz", "T1?"),
        ("t1_flair.nii.gz", "FLAIR"),
        ("T1w_to_CT.nii.gz", None),
        ("object.nii.gz", None),
    ],
)
def test_names(name, expected):
    assert contrast_named(name) == expected


@pytest.mark.parametrize(("one", "other"), [("sub_T1w", "sub_FLAIR"), ("sub_t1", "sub_FLAIR"), ("a_ct", "b_pet"), ("t2s", "t2")])
def test_two_contrasts(one, other):
    assert told_apart(contrast_named(one), contrast_named(other))


@pytest.mark.parametrize(("one", "other"), [("visit_t1", "visit_t2"), ("sub_T1pre", "sub_T1post"), ("sub_T1w", "sub"), ("sub_t1", "sub_T1w")])
def test_visits_and_names_that_leave_it_open_are_not_told_apart(one, other):
    assert not told_apart(contrast_named(one), contrast_named(other))
