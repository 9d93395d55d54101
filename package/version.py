"""The version of this installation, which pyproject.toml says once.

Owns the look-up; whoever shows a version or sends it takes it from here. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

PROGRAM: Final = "tunnelfleet"
"""The name of the program and of the distribution."""

UNKNOWN_VERSION: Final = "unknown"
"""Stands for the version where the sources are used without being installed."""


def _installed_version() -> str:
    # The name of the folder says it. To ask importlib.metadata takes 20 ms and 3 MB, as it loads
    # what reads mail.
    for folder in sys.path:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = os.listdir(folder or ".")
        for name in names:
            if name.startswith(f"{PROGRAM}-") and name.endswith(".dist-info"):
                return name.removeprefix(f"{PROGRAM}-").removesuffix(".dist-info")
    import importlib.metadata  # noqa: PLC0415 - as above: for what is installed in another way

    try:
        return importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN_VERSION


VERSION: Final = _installed_version()
USER_AGENT: Final = f"{PROGRAM}/{VERSION} (python)"
"""What a tunnel calls itself in HTTP, unless its configuration says otherwise."""


def version_line() -> str:
    """Return the versions of the program and of Python in one line."""
    return f"{PROGRAM} {VERSION} (Python {sys.version.split()[0]})"
