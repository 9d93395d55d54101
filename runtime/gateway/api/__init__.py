"""The admin API of a gateway: HTTP and JSON, at a Unix socket or in a host's application."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import *  # noqa: F403 - type checkers must know the names
    from .names import __all__ as __all__
else:
    from tunnelfleet.lazy import names_of

    # Loaded when somebody first asks for one of them.
    __getattr__ = names_of(__name__)
