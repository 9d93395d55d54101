"""The command line: `tunnelfleet up | connect | localproxy | service | ...`.

Owns the entry point of the `tunnelfleet` program, and who reads its command line: `localproxy` in
its plain form does it itself, everything else is `app`'s. The commands are in modules of their
own, imported when they are asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .options import COMPLETE_VARIABLE

__all__ = ["COMPLETE_VARIABLE", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; None takes the process's own.

    Returns:
        The exit status, see `errors`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["localproxy"] and COMPLETE_VARIABLE not in os.environ:
        from .localproxy.command import main as localproxy  # noqa: PLC0415 - see above

        status = localproxy(given[1:])
        if status is not None:
            return status
    from .app import main as run  # noqa: PLC0415 - it takes as much as a tunnel

    return run(given)
