"""`python -m tunnelfleet`, and the entry point of the `tunnelfleet` program.

Owns the fast path of `tunnelfleet --version`, which loads nothing but this package. Everything else
is the command line's.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line with the arguments of the process; return the exit status."""
    if sys.argv[1:] == ["--version"]:
        from .version import version_line  # noqa: PLC0415 - the other commands load what they need

        sys.stdout.write(f"{version_line()}\n")
        return 0
    from tunnelfleet.runtime.cli import main as run  # noqa: PLC0415 - it takes ten times as long

    return run()


if __name__ == "__main__":
    sys.exit(main())
