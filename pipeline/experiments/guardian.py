"""Runs a command, and ends it together with the process that asked for it, even if that one is killed.

A program: ``python guardian.py LOCK COMMAND...``, started in a process group of its own. Nothing is ever written to its
standard input; the end of the input means that the other side closed it or is gone. Then the whole group gets SIGINT,
upon which training writes a checkpoint and ends, and after a while SIGKILL. The lock is held while the command runs.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from filelock import FileLock

SECONDS_TO_END = 60.0


def main(lock: str, command: list[str]) -> int:
    """Run the command; return its exit code, or 128 plus the number of the signal that ended it."""
    # Ray starts its workers with Ctrl-C blocked, which the command would inherit, as it would SIG_IGN.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with FileLock(lock):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        threading.Thread(target=_end_with_other_side, daemon=True).start()
        code = process.wait()
    return code if code >= 0 else 128 - code


def _end_with_other_side() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGINT)
    time.sleep(SECONDS_TO_END)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
