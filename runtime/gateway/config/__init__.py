"""The configuration of a gateway: TOML files in, settings and wanted tunnels out."""
# Loaded when somebody first asks for one of the names (PEP 562): a command that asks a gateway does
# not wait for the parts of one.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import *  # noqa: F403 - type checkers must know the names
    from .names import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Load the public names.

        Raises:
            AttributeError: there is no such name.
        """
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        face = importlib.import_module(f"{__name__}.names")
        if name != "__all__" and name not in face.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(face, name)
        globals()[name] = value
        return value
