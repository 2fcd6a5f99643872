"""``python -m asdray.sweep SPEC.yaml``: the same as ``asdray sweep SPEC.yaml``."""

import sys

from asdray.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
