"""Has Ray's workers write what coverage has seen of them every second.

Ray ends the process of an actor at once, so that nothing which stands at its end is done. The
folder is on PYTHONPATH for Ray's processes, and only while coverage is measured.
"""

from __future__ import annotations

import sys
import threading
import time

WORKER = "default_worker.py"
WRITE_SECONDS = 1.0


def _write(measured: coverage.Coverage) -> None:
    while True:
        time.sleep(WRITE_SECONDS)
        measured.save()


if any(each.endswith(WORKER) for each in sys.orig_argv):
    import coverage

    if (found := coverage.Coverage.current()) is not None:
        threading.Thread(target=_write, args=(found,), daemon=True).start()
