"""How long a driver waits for the directory of a fleet; no Ray runs, and no time passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.ray_fleet import cluster, fleet
from tunnelfleet.runtime.ray_fleet.fleet import DIRECTORY_SECONDS, RayFleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.ray_fleet.plan import FleetPlan

PLAN: Any = SimpleNamespace(to_bytes=lambda: b"", groups=1)


class Late:
    """A directory that answers nothing, on a clock of its own."""

    now = 0.0
    asked: float | None = None

    def ask(self, _method: str, *_arguments: Any, timeout_seconds: float) -> Any:
        self.asked = self.asked or timeout_seconds
        self.now += 1.0
        raise ConnectionError("no answer")

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    found = Late()
    monkeypatch.setattr(fleet, "time", found)
    monkeypatch.setattr(fleet, "DirectoryClient", lambda _namespace: found)
    for name in ("make_actor", "head", "find_actor"):
        monkeypatch.setattr(cluster, name, lambda *_given, **_keys: object())
    return found


def bring_up(plan: FleetPlan, seconds: float) -> Callable[[], object]:
    return lambda: RayFleet("a namespace").up(plan, seconds, lambda _text: None)


@pytest.mark.parametrize(
    ("given", "waited"), [(0.0, DIRECTORY_SECONDS), (10.0, DIRECTORY_SECONDS), (300.0, 300.0)]
)
def test_the_directory_has_as_long_as_the_groups(late: Late, given: float, waited: float) -> None:
    with pytest.raises(TunnelError, match=f"does not answer within {waited:g} s: no answer"):
        bring_up(PLAN, given)()
    assert late.asked == waited
    assert waited <= late.now < waited + 2.0


def test_who_only_looks_waits_for_a_while(late: Late) -> None:
    with pytest.raises(TunnelError, match=f"within {DIRECTORY_SECONDS:g} s"):
        RayFleet("a namespace").groups()
