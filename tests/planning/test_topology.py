import json
from pathlib import Path

import pytest

from nnreg.planning.topology import topology

CASES = json.loads((Path(__file__).parent / "data" / "nnunet_topology.json").read_text())["topology"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['spacing']}-{case['patch']}")
def test_equals_nnunet(case):
    found = topology(case["spacing"], case["patch"])
    plain = [list(found.pools), [list(s) for s in found.strides], [list(k) for k in found.kernel_sizes], list(found.patch), list(found.divisor)]
    assert plain == case["out"]


@pytest.mark.parametrize("patch", [(7, 7), (8, 8), (9, 40, 200), (1, 30, 30)])
def test_coarsest_map_keeps_four_voxels_along_every_pooled_axis(patch):
    found = topology((1.0,) * len(patch), patch)
    for size, pools in zip(patch, found.pools, strict=True):
        assert pools == 0 or size / 2**pools > 3
    assert found.kernel_sizes[-1] == (3,) * len(patch)


def test_most_pools_bounds_the_depth():
    assert len(topology((1, 1, 1), (128, 128, 128), most_pools=2).strides) == 3
