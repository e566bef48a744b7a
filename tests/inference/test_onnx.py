"""Networks and the warp as ONNX give in ONNX Runtime what they give here; without its packages one line says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from exported_networks import registering
from torch import nn

from nnreg.cli import export_model
from nnreg.errors import PredictionError
from nnreg.inference import onnx_export
from nnreg.inference.onnx_export import write_onnx
from nnreg.inference.torchscript import Predicting, example


@pytest.mark.slow
@pytest.mark.parametrize(("ndim", "name"), [(2, "dual_pyramid"), (3, "dual_pyramid"), (3, "unetreg")])
def test_network_and_warp_run_in_onnx_runtime(ndim, name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    whole, images = registering(ndim, name)
    path = tmp_path / "network.onnx"
    write_onnx(whole, images, path, inputs=("fixed", "moving"), outputs=("field", "warped"), description={"spacing_mm": [1.0]}, name="here")
    session = runtime.InferenceSession(str(path))
    assert json.loads(session.get_modelmeta().custom_metadata_map["nnreg.json"]) == {"spacing_mm": [1.0]}
    fixed, moving = (torch.rand_like(image) for image in images)
    field, warped = session.run(["field", "warped"], {"fixed": fixed.numpy(), "moving": moving.numpy()})
    with torch.no_grad():
        expected = whole(fixed, moving)
    assert expected[0].abs().max() > 0.1
    assert np.abs(field - expected[0].numpy()).max() < 1e-4
    assert np.abs(warped - expected[1].numpy()).max() < 1e-4


@pytest.mark.slow
def test_logits_and_what_is_not_itself(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    network = nn.Conv2d(1, 3, 3, padding=1)
    write_onnx(Predicting([network]).eval(), example(1, 1, (8, 9)), tmp_path / "a.onnx", inputs=("image",), outputs=("logits",), description={}, name="here")
    image = torch.rand(1, 1, 8, 9)
    [logits] = runtime.InferenceSession(str(tmp_path / "a.onnx")).run(None, {"image": image.numpy()})
    np.testing.assert_allclose(logits, network(image).detach().numpy(), atol=1e-5)

    class Changing(nn.Module):
        def forward(self, image):
            return image + torch.rand(1)

    with pytest.raises(PredictionError, match="as ONNX differs by up to"):
        write_onnx(Changing(), example(1, 1, (4, 4)), tmp_path / "b.onnx", inputs=("image",), outputs=("logits",), description={}, name="here")


def test_what_is_wrong_is_told_before_anything_is_written(tmp_path, capsys, monkeypatch):
    model = ["-m", str(tmp_path)]
    (tmp_path / "plans.json").write_text("{}")
    monkeypatch.setattr(onnx_export, "NEEDED", ("a_package_that_nobody_has",))
    with pytest.raises(PredictionError, match="needs the package a_package_that_nobody_has: pip install"):
        onnx_export.check_installed()
    with pytest.raises(PredictionError, match=r"ends in \.onnx"):
        onnx_export.export_onnx(None, tmp_path / "a.pt")
    assert export_model.main([*model, "--onnx", "-o", str(tmp_path / "a.onnx")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "a.onnx").exists()
