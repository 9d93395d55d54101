"""The harnesses, a module for each surface, by the surface's name."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.fuzz.harness import Harness

NAMES = tuple(
    sorted(each.stem for each in Path(__file__).parent.glob("*.py") if each.stem != "__init__")
)


def load(name: str) -> Harness:
    """Return the harness of a surface; its module is imported only now."""
    found: Harness = importlib.import_module(f"{__name__}.{name}").HARNESS
    return found
