"""Labels were not looked at to find the foreground; they tell whether it was found."""

import numpy as np
import pytest

from nnreg.imageio import read_image
from nnreg.planning.registration.foreground import find_foreground

LABELLED = [
    ("oasis35/1000_SS.nii.gz", "oasis35/1000_glm.nii.gz", True),
    ("ixi2mm/T1/IXI013-HH-1212_T1.nii.gz", "ixi2mm/DLMUSE/IXI013-HH-1212_T1_DLMUSE.nii.gz", True),
    ("acdc_ed_es/patient001_frame01.nii.gz", "acdc_ed_es/patient001_frame01_gt.nii.gz", None),
    ("totalseg_examples/example_ct_sm.nii.gz", "totalseg_examples/example_seg.nii.gz", True),
    ("msd_hippocampus/images/hippocampus_001.nii.gz", "msd_hippocampus/labels/hippocampus_001.nii.gz", False),
]


@pytest.mark.parametrize(("image", "labels", "background"), LABELLED, ids=lambda value: str(value).split("/")[0])
def test_labelled_voxels_lie_in_the_box(shared_data, image, labels, background):
    if not (shared_data / labels).is_file():
        pytest.skip(f"{labels} is not there")
    found = find_foreground(read_image(shared_data / image).array)
    indices = np.argwhere(read_image(shared_data / labels).array[0] > 0)
    inside = ((indices >= found.low) & (indices < found.high)).all(axis=1)
    assert inside.mean() > 0.9999  # a tip of one voxel may fall between the voxels that are looked at; the margin is wider
    assert background is None or found.found == background


def test_a_section_without_a_quiet_border_is_not_cut(shared_data):
    for path in sorted((shared_data / "histology").glob("*/images/*.jpg")):
        assert not find_foreground(read_image(path).array).found


def test_lung_ct_is_told_by_its_values(shared_data):
    found = find_foreground(read_image(shared_data / "elastix_lung_pair" / "3DCT_lung_baseline.mha").array)
    assert found.hounsfield == (True,)
    assert found.background == (-1000.0,)
