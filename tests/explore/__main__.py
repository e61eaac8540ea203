"""``make explore``: see :mod:`tests.explore.command`."""

from __future__ import annotations

import os
import sys


def start() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have another order in each run otherwise
        command = [sys.executable, "-m", "tests.explore", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    from tests.explore import simulation

    # Call this before all other imports, because some modules keep the original functions.
    simulation.install()
    from tests.explore.command import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
