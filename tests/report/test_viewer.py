"""The viewer's server: what it serves, to whom, and what it says where it cannot."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import socket
import tarfile
import threading

import numpy as np
import pytest

from nnreg.cli.view import main
from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.report import viewer
from tests.report.folders import label_maps, predictions


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def installed(cache):
    viewer.viewer_script().parent.mkdir(parents=True)
    viewer.viewer_script().write_text("const niivue = 1;")


def fetched(port: int, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_pairs_are_served_and_nothing_else(installed, tmp_path):
    out = predictions(tmp_path)
    shown = viewer.gallery(out)
    assert [entry["name"].split()[0] for entry in shown.entries] == [entry["name"].split()[0] for entry in shown.entries if entry["volumes"]]
    assert [volume["role"] for volume in shown.entries[0]["volumes"]] == ["fixed", "warped", "moving", "warped_labels"]
    with viewer.server(shown, "<out>", 0) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        port = served.server_address[1]
        assert served.server_address[0] == "127.0.0.1"
        status, body = fetched(port, "/")
        assert status == 200
        assert b"&lt;out&gt;" in body
        assert fetched(port, "/niivue.js") == (200, b"const niivue = 1;")
        volume = shown.entries[0]["volumes"][1]["url"]
        assert fetched(port, volume) == (200, shown.files[volume].read_bytes())
        for path in ("/../../etc/passwd", "/volume/0/../1", str(out / "prediction.json"), "/prediction.json", "/volume/99/fixed.nii.gz"):
            assert fetched(port, path)[0] == 404, path
        assert fetched(port, "/", host="evil.example")[0] == 403
        assert fetched(port, "/", host=f"localhost:{port}")[0] == 200
        shown.files[volume].unlink()
        assert fetched(port, volume)[0] == 404
        served.shutdown()


def test_formats_that_the_viewer_does_not_read_are_converted(installed, tmp_path):
    write_image(tmp_path / "a.png", np.arange(12, dtype=np.uint8).reshape(1, 3, 4), Space.plain((3, 4)))
    shown = viewer.Gallery()
    shown.add("one", {"fixed": tmp_path / "a.png"})
    url = shown.entries[0]["volumes"][0]["url"]
    assert url.endswith("/fixed.nii.gz")
    with viewer.server(shown, "", 0) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        status, body = fetched(served.server_address[1], url)
        served.shutdown()
    assert status == 200
    assert body[:2] == b"\x1f\x8b"


def test_label_maps_are_shown_over_their_images(tmp_path):
    roles = [[volume["role"] for volume in entry["volumes"]] for entry in viewer.gallery(label_maps(tmp_path)).entries]
    assert roles == [["fixed", "warped_labels"]] * 2


def test_what_cannot_be_shown_is_told_in_one_line(installed, tmp_path, capsys):
    out = predictions(tmp_path, ndim=2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([str(out), "--no_browser", "--port", str(port)]) == 2
    assert f"port {port} is in use" in capsys.readouterr().err
    viewer.viewer_script().unlink()
    assert main([str(out), "--no_browser"]) == 2
    assert "nnreg_view --install_viewer" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    assert main([]) == 2
    assert "FOLDER is missing" in capsys.readouterr().err


def test_the_viewer_is_taken_from_the_pinned_archive_alone(cache, tmp_path, monkeypatch):
    path, script = tmp_path / "niivue.tgz", b"var niivue = {};"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(viewer.SCRIPT)
        entry.size = len(script)
        archive.addfile(entry, io.BytesIO(script))
    with pytest.raises(NnRegError, match="SHA-512 differs"):
        viewer.install_viewer(path)
    assert not viewer.viewer_script().exists()
    monkeypatch.setattr(viewer, "SHA512", base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())
    assert viewer.install_viewer(path).read_bytes() == script
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NnRegError, match="npm is not on this machine"):
        viewer.install_viewer()
