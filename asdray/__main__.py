"""``python -m asdray <command>``."""

from asdray.cli import main

if __name__ == "__main__":
    main()
