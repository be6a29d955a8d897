"""The leader of a front end's process group, run as ``python -I -S guard.py FD COMMAND...``.

Package managers and their scripts do not notice that the server was killed. This process does:
the pipe ``FD`` ends with the server, and then the whole group ends too. It imports the standard
library alone, so that it costs little.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import NoReturn

GRACE_SECONDS = 3.0
"""Between asking the group to end and killing it, once the server is gone."""


def main() -> None:
    """Run the command; end as it ends."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # A signal to the group is for the command; this process ends after it. (Handlers, unlike
    # SIG_IGN, are not inherited.)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command)  # noqa: S603 - the server says what to run
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    code = child.wait()
    if select.select([parent], [], [], 0)[0]:
        os.killpg(0, signal.SIGKILL)  # nobody is left to clean up behind the command
    _end_like(code)


def _end_like(code: int) -> NoReturn:
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to restore
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _end_with(parent: int) -> None:
    """Once the server is gone, ask the group to end, then kill it."""
    select.select([parent], [], [])  # nothing is ever written: readable means ended
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
