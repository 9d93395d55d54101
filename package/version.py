"""The version of this installation, which pyproject.toml says once.

Owns the look-up; whoever shows a version or sends it takes it from here. Imports nothing of ours.
"""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

PROGRAM: Final = "tunnelfleet"
"""The name of the program and of the distribution."""

UNKNOWN_VERSION: Final = "unknown"
"""Stands for the version where the sources are used without being installed."""


def _installed_version() -> str:
    try:
        return importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN_VERSION


VERSION: Final = _installed_version()
USER_AGENT: Final = f"{PROGRAM}/{VERSION} (python)"
"""What a tunnel calls itself in HTTP, unless its configuration says otherwise."""


def version_line() -> str:
    """Return the versions of the program and of Python in one line."""
    return f"{PROGRAM} {VERSION} (Python {platform.python_version()})"
