"""``nnreg_view``: full volumes of a results folder in the browser, on this machine alone."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run

PORT = 8753
FETCH = "fetch"


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_view",
        "Look at full volumes in the browser: fixed, moving and warped images, labels, uncertainty. Served to this machine alone, until Ctrl-C.",
    )
    result.add_argument("folder", nargs="?", metavar="FOLDER", help="output folder of nnreg_register or nnreg_predict, or fold_0 of a training")
    result.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port on 127.0.0.1; 0: any that is free (default: {PORT})")
    result.add_argument("--no_browser", action="store_true", help="open no browser: print the address alone")
    result.add_argument(
        "--install_viewer",
        nargs="?",
        const=FETCH,
        metavar="FILE",
        help="once: fetch the viewer NiiVue by npm, or take it from the .tgz that npm pack made elsewhere",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> int:
    from nnreg.errors import ConfigurationError
    from nnreg.report.viewer import gallery, install_viewer, server

    if options.install_viewer is not None:
        print(f"viewer: {install_viewer(None if options.install_viewer == FETCH else Path(options.install_viewer))}")
    if options.folder is None:
        if options.install_viewer is None:
            raise ConfigurationError("FOLDER is missing: give the output folder of nnreg_register or nnreg_predict.")
        return 0
    shown = gallery(Path(options.folder))
    with server(shown, Path(options.folder).absolute().name, options.port) as served:
        address = f"http://127.0.0.1:{served.server_address[1]}/"
        print(f"{len(shown.entries)} to look at: {address} (Ctrl-C ends it; from another machine: ssh -L {served.server_address[1]}:127.0.0.1:...)", flush=True)
        if not options.no_browser:
            webbrowser.open(address)
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
