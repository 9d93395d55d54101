"""Tunnels whose streams have the numbers that tests know."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def known_numbers(streams_from_1: None) -> None:
    """For every test of this folder."""
