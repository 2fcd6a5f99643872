"""The command line, ``asdray <command>``: a command parses its options, calls another package, and prints.

Exit codes: 0 success; 1 failures, listed at the end; 2 wrong input; 75 stopped, the same command continues.

Example::

    asdray synth dcase2023 --machines fan,bandsaw
    asdray format dcase2023
    asdray sweep sweeps/demo.yaml --dry-run
"""

from asdray.cli.main import main as main
