"""``python -m nnreg``: the command ``nnreg``."""

import sys

from nnreg.cli.umbrella import main

if __name__ == "__main__":
    sys.exit(main())
