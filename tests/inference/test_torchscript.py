"""Networks and the warp as TorchScript give what they give here, where nnReg is not imported."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from exported_networks import registering
from torch import nn

from nnreg.cli import export_model
from nnreg.errors import PredictionError
from nnreg.inference.predictor import ModelFolder
from nnreg.inference.torchscript import Predicting, example, traced_as

ALONE = """
import sys, numpy, torch
network = torch.jit.load(sys.argv[1])
data = numpy.load(sys.argv[2])
field, warped = network(torch.from_numpy(data["fixed"]), torch.from_numpy(data["moving"]))
assert not [name for name in sys.modules if name.startswith("nnreg")]
assert numpy.abs(field.numpy() - data["field"]).max() < 1e-4 and numpy.abs(warped.numpy() - data["warped"]).max() < 1e-4
"""


@pytest.mark.parametrize(("ndim", "name"), [(2, "dual_pyramid"), (3, "dual_pyramid"), (3, "unetreg")])
def test_network_and_warp_run_without_nnreg(ndim, name, tmp_path):
    whole, images = registering(ndim, name)
    traced = traced_as(whole, images, "here")
    torch.jit.save(traced, str(tmp_path / "network.pt"))
    fixed, moving = (torch.rand_like(image) for image in images)
    with torch.no_grad():
        field, warped = whole(fixed, moving)
        again = torch.jit.load(str(tmp_path / "network.pt"))(fixed, moving)
    assert field.abs().max() > 0.1
    assert (again[0] - field).abs().max() < 1e-4
    assert (again[1] - warped).abs().max() < 1e-4
    if (ndim, name) == (3, "dual_pyramid"):
        np.savez(tmp_path / "data.npz", fixed=fixed, moving=moving, field=field, warped=warped)
        subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "network.pt"), str(tmp_path / "data.npz")], check=True, cwd=tmp_path)


def test_logits_of_a_segmentation(tmp_path):
    network = nn.Conv2d(1, 3, 3, padding=1)
    traced = traced_as(Predicting([network]).eval(), example(1, 1, (8, 9)), "here")
    image = torch.rand(1, 1, 8, 9)
    assert torch.allclose(traced(image), network(image), atol=1e-5)


def test_a_model_becomes_one_file_that_says_what_it_needs(plane, tmp_path, capsys):
    path = tmp_path / "plane.pt"
    assert export_model.main(["-m", str(plane.model()), "-o", str(path), "--torchscript", "-f", "0"]) == 0
    extra = {"nnreg.json": ""}
    network = torch.jit.load(str(path), _extra_files=extra)
    told = json.loads(extra["nnreg.json"])
    images = [torch.rand(told["inputs"][name]) for name in ("fixed", "moving")]
    field, warped = network(*images)
    predictor = ModelFolder.open(plane.model()).predictor(folds=["0"], checkpoint="checkpoint_final.pth", device=torch.device("cpu"))
    with torch.no_grad():
        expected = predictor.networks[0](fixed=images[0], moving=images[1])[0]
    assert (field - expected).abs().max() < 1e-4
    assert warped.shape == images[1].shape
    assert told["spacing_mm"] == list(predictor.configuration.spacing)
    assert "torch.jit.load" in capsys.readouterr().out
    for arguments, words in ((["-o", str(tmp_path / "a.zip")], "ends in .pt"), (["-o", str(path), "--notes", "x"], "Leave them out")):
        assert export_model.main(["-m", str(plane.model()), "--torchscript", *arguments]) == 2
        assert words in capsys.readouterr().err


class Changing(nn.Module):
    """Another result at every call."""

    def forward(self, image):
        return image + torch.rand(1)


def test_a_network_that_is_not_itself_when_traced_is_refused():
    with pytest.raises(PredictionError, match="differs by up to"):
        traced_as(Changing(), example(1, 1, (4, 4)), "here")
