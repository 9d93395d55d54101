"""uvloop if it is installed, else asyncio's own loop."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tunnelfleet.actors.kernel.loop_io import new_event_loop


def test_asyncios_own_loop_serves_without_uvloop(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert type(loop).__module__.startswith("asyncio")
    loop.close()


def test_uvloop_is_taken_when_it_is_installed():
    uvloop = pytest.importorskip("uvloop")
    loop = new_event_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()
