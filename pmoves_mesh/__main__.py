"""`python -m pmoves_mesh`: the command line, where its script is not on the PATH."""

from __future__ import annotations

import sys

from pmoves_mesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
