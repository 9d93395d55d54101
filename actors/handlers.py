"""The type of a table from message types to the methods that handle them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["Handlers"]

Handlers: TypeAlias = dict[type[Any], Callable[[Any, Any], Any]]
"""Keyed by the exact type of a message; the values are functions of the actor and the message."""
