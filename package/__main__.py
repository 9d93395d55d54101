"""`python -m tunnelfleet`, and the entry point of the `tunnelfleet` program.

Owns the fast paths of `tunnelfleet --version` and `tunnelfleet connect`, which load nothing but
this package. Everything else is the command line's.
"""

from __future__ import annotations

import os
import sys
from typing import Final

COMPLETE_VARIABLE: Final = "_TUNNELFLEET_COMPLETE"
"""Is set by a shell that completes, see `tunnelfleet.runtime.cli.completion`."""
EXIT_INTERRUPTED: Final = 130
"""As of every command, see `tunnelfleet.runtime.cli.errors`, which takes longer to load."""


def main() -> int:
    """Run the command line with the arguments of the process; return the exit status."""
    try:
        return _run()
    except KeyboardInterrupt:
        # While modules are loaded; a command that runs has taken Ctrl-C for itself.
        return EXIT_INTERRUPTED


def _run() -> int:
    # A shell that completes asks with the words so far, and has none of it done.
    is_asked = COMPLETE_VARIABLE in os.environ
    if sys.argv[1:] == ["--version"] and sys.stdout is not None and not is_asked:
        from .version import version_line  # noqa: PLC0415 - the other commands load what they need

        try:
            sys.stdout.write(f"{version_line()}\n")
            sys.stdout.flush()
        except OSError:
            pass  # the command line says what is wrong with standard output
        else:
            return 0
    if sys.argv[1:2] == ["connect"] and not is_asked:
        from .connect import main as connect  # noqa: PLC0415 - as above; ssh starts it often

        status = connect(sys.argv[2:])
        if status is not None:
            return status
    from tunnelfleet.runtime.cli import main as run  # noqa: PLC0415 - it takes ten times as long

    return run()


if __name__ == "__main__":
    sys.exit(main())
