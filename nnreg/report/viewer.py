"""Full volumes of a results folder in the browser: NiiVue (Hanayik et al., BSD-2-Clause), served to this machine alone.

The viewer is not part of nnReg: 2.3 MB that only who looks at volumes needs. It comes from the npm registry once, through npm or as a file that npm made
elsewhere, and is used only if its checksum is the pinned one.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from nnreg.errors import EvaluationError, NnRegError
from nnreg.files import atomic_path
from nnreg.imageio import ENDINGS, is_image_file, read_image, write_image
from nnreg.report.folder import Item, Results, read_results
from nnreg.report.sources import Sources, sources_of

PACKAGE, VERSION = "@niivue/niivue", "0.69.0"
SHA512: Final = "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
SCRIPT = "package/dist/niivue.umd.js"
LOCAL = "127.0.0.1"
READ_BY_VIEWER = (".nii", ".nii.gz", ".nrrd", ".mha")
SHOWN = ("fixed", "warped", "moving", "warped_labels", "fixed_labels", "uncertainty")
LABELS = ("warped_labels", "fixed_labels")


def viewer_script() -> Path:
    """Where the viewer lies on this machine, once it is there."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(cache) / "nnreg" / f"niivue-{VERSION}.js"


def install_viewer(archive: Path | None = None) -> Path:
    """Fetch the viewer by npm, or take it from the archive that ``npm pack`` made.

    Raises
    ------
    NnRegError
        If npm is missing or fails, or the archive is another one than the pinned.
    """
    with tempfile.TemporaryDirectory() as temporary:
        found = _packed(Path(temporary)) if archive is None else archive
        try:
            content = found.read_bytes()
        except OSError as error:
            raise NnRegError(f"{found}: cannot be read ({error.strerror}). Make it with: npm pack {PACKAGE}@{VERSION}") from error
        if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
            raise NnRegError(f"{found}: is not {PACKAGE} {VERSION}, its SHA-512 differs. Make it with: npm pack {PACKAGE}@{VERSION}")
        with tarfile.open(found) as packed, atomic_path(viewer_script()) as target:
            script = packed.extractfile(SCRIPT)
            assert script is not None  # the checksum is that of an archive that has it
            target.write_bytes(script.read())
    return viewer_script()


def _packed(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise NnRegError(
            f"npm is not on this machine. Where it is: npm pack {PACKAGE}@{VERSION}, bring the .tgz here, and pass it: nnreg_view --install_viewer FILE.tgz"
        )
    made = subprocess.run([npm, "pack", f"{PACKAGE}@{VERSION}"], cwd=folder, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tgz"))
    if made.returncode or not found:
        said = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NnRegError(f"npm pack {PACKAGE}@{VERSION} failed ({said}). Without a network, bring the .tgz here: nnreg_view --install_viewer FILE.tgz")
    return found[0]


@dataclass(frozen=True)
class Gallery:
    """What is shown: the images of each pair or case, by the address under which they are served.

    Attributes
    ----------
    entries
        For the page: name of the pair, and its volumes (``role``, ``url``, ``labels``).
    files
        Address to file. Nothing else is served.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    def add(self, name: str, images: Mapping[str, Path]) -> None:
        """A pair or case with its images by role."""
        volumes = []
        for role, path in images.items():
            ending = next((one for one in sorted(READ_BY_VIEWER, key=len, reverse=True) if path.name.lower().endswith(one)), ".nii.gz")
            url = f"/volume/{len(self.files)}/{role}{ending}"
            self.files[url] = path
            volumes.append({"role": role, "url": url, "labels": role in LABELS})
        self.entries.append({"name": name, "volumes": volumes})


def gallery(folder: Path, sources: Sources | None = None) -> Gallery:
    """The images of a results folder; those that were registered as far as they are still where they were.

    Raises
    ------
    EvaluationError
        If it is no results folder, or holds no image.
    """
    results = read_results(folder)
    found = Gallery()
    for item in results.items:
        images = images_of(item, results, sources or sources_of(results))
        if images:
            found.add(item.name, images)
    if not found.entries:
        raise EvaluationError(f"{folder}: holds no image to show. Give the output folder of nnreg_register or nnreg_predict.")
    return found


def images_of(item: Item, results: Results, sources: Sources) -> dict[str, Path]:
    """Files of an item by role, in the order of ``SHOWN``."""
    stems = {"warped": "warped", "warped_labels": "warped_labels", "uncertainty": "uncertainty"} if results.registers else {"warped_labels": item.name}
    images = {role: path for role, stem in stems.items() if (path := _first(item.folder, stem)) is not None}
    keys = (("fixed", "fixed"), ("moving", "moving")) if results.alone else (("fixed", "fixed_images"), ("moving", "moving_images"))
    for role, key in keys if results.registers else (("fixed", "images"),):
        channel = next(iter(item.record.get(key, [])), None)
        there = [place / channel for place in sources.images if channel is not None and (place / channel).exists()]
        images |= {role: there[0]} if there else {}
    named = item.record.get("fixed_labels")
    images |= {"fixed_labels": Path(named)} if isinstance(named, str) and Path(named).is_file() else {}
    return {role: images[role] for role in SHOWN if role in images}


def _first(folder: Path, stem: str) -> Path | None:
    return next((path for ending in ENDINGS if is_image_file(path := folder / f"{stem}{ending}")), None)


def page(shown: Gallery, title: str) -> str:
    """The page that shows a gallery."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("nnreg.report"), autoescape=True)
    return environment.get_template("viewer.html").render(title=title, entries=shown.entries)


@contextmanager
def server(shown: Gallery, title: str, port: int) -> Iterator[ThreadingHTTPServer]:
    """Serve a gallery on this machine alone; port 0 is any that is free.

    Raises
    ------
    NnRegError
        If the viewer is not installed, or the port is in use.
    """
    script = viewer_script()
    if not script.is_file():
        raise NnRegError(f"{script}: the viewer is not installed. Fetch it once ({PACKAGE} {VERSION}, 2.3 MB, BSD-2-Clause): nnreg_view --install_viewer")
    fixed = {"/": ("text/html; charset=utf-8", page(shown, title).encode()), "/niivue.js": ("text/javascript", script.read_bytes())}
    with tempfile.TemporaryDirectory() as temporary:
        served = _bound(_handler(fixed, shown.files, Path(temporary)), port)
        try:
            yield served
        finally:
            served.server_close()


def _bound(handler: type[BaseHTTPRequestHandler], port: int) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((LOCAL, port), handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use" if error.errno == errno.EADDRINUSE else "may not be opened by you"
        raise NnRegError(f"port {port} {why}. Take another one: nnreg_view FOLDER --port {port + 1 if port >= 1024 else 8753}") from error


def _handler(fixed: Mapping[str, tuple[str, bytes]], files: Mapping[str, Path], temporary: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers for the page, the viewer and the images of the gallery, and for nothing else."""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
            if host not in (LOCAL, "localhost"):  # a page from elsewhere that calls this machine by another name
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path in fixed:
                self._send(*fixed[self.path])
            elif self.path in files:
                try:
                    self._send("application/octet-stream", _readable(files[self.path], temporary, self.path).read_bytes())
                except (OSError, NnRegError) as error:
                    self.send_error(HTTPStatus.NOT_FOUND, str(error).splitlines()[0][:200].encode("ascii", "replace").decode())
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, kind: str, content: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(content))), ("Cache-Control", "no-store")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


def _readable(path: Path, temporary: Path, url: str) -> Path:
    """A file that the viewer reads: other formats are converted to NIfTI once."""
    if path.name.lower().endswith(READ_BY_VIEWER):
        return path
    converted = temporary / f"{url.split('/')[2]}.nii.gz"
    if not converted.is_file():
        image = read_image(path)
        write_image(converted, image.array, image.space)
    return converted


__all__ = ["Gallery", "gallery", "images_of", "install_viewer", "page", "server", "viewer_script"]
