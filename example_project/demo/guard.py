"""Runs a command for the demo, and ends it with the demo, even if the demo is killed.

This file is run as a script. Its standard input is a pipe that only the demo can write to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 (the demo's own)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_end_with_demo, daemon=True).start()
    return child.wait()


def _end_with_demo() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    # The demo has ended. This kills the command, its own children, and this process.
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
