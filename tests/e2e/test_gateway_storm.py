"""A service drops a whole fleet and refuses it for a while: all return, at the rate, in order.

Takes minutes and a machine of its own, so `make test-long` runs it.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.support.gateway import seen_in_time, up
from tests.support.rates import busiest_second
from tests.support.rig import Events
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.events import ServiceEventKind

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TUNNELS = 2_000
RATE = 200
REFUSED_SECONDS = 10.0
RETURN_SECONDS = 60.0
HEALTH_SECONDS = 1.0


class Health:
    """Asks /healthz again and again, and keeps the longest time that an answer took."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self.longest_seconds = 0.0
        self.answers = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run, name="health")
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.2):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(f"{self._url}/healthz", timeout=WAIT_SECONDS):
                    self.answers += 1
            except urllib.error.URLError as error:
                self.failures.append(str(error))
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def finish(self) -> None:
        """Stop asking."""
        self._end.set()
        self._thread.join()


def connected(url: str) -> int:
    """How many tunnels are."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=WAIT_SECONDS) as answer:
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            found = json.loads(error.read())
    return int(found["connected"])


def test_a_fleet_that_was_dropped_and_refused_returns(tmp_path: Path) -> None:
    events = Events()
    with TunnelService(tls=False, on_event=events) as service:
        lines = [
            '[gateway]\nmetrics = "127.0.0.1:0"\ndrain_seconds = 5',
            f"connect_rate = {RATE}\nconnect_concurrency = 16",
            f'[defaults]\nmode = "destination"\nendpoint = "{service.endpoint}"',
            'services = { SSH = "127.0.0.1:22" }\nrestart = { max_seconds = 10 }',
        ]
        for number in range(TUNNELS):
            token = service.open_tunnel(f"t{number}", ["SSH"]).destination_token
            lines.append(f'[[tunnel]]\nname = "t{number}"\naccess_token = "{token}"')
        file = tmp_path / "fleet.toml"
        file.touch(mode=0o600)
        file.write_text("\n".join(lines))
        with up(file, tmp_path / "state") as gateway:
            url = gateway.wait_event("metrics")["url"]
            seen_in_time(lambda: connected(url) == TUNNELS, "all are connected", 120)
            health = Health(url)
            try:
                service.refuse_next(None, 503, count=10**9)
                for number in range(TUNNELS):
                    service.drop(f"t{number}")
                threading.Event().wait(REFUSED_SECONDS)
                service.refuse_next(None, 503, count=0)
                began = time.monotonic()
                seen_in_time(lambda: connected(url) == TUNNELS, "all are back", 300)
                took_seconds = time.monotonic() - began
            finally:
                health.finish()
            tries = [
                event.time_seconds
                for event in events.all()
                if event.kind
                in (ServiceEventKind.CLIENT_CONNECTED, ServiceEventKind.CLIENT_REFUSED)
            ]
            print(
                f"back after {took_seconds:.1f} s, at most {busiest_second(tries)} tries a second"
            )
            print(f"/healthz: {health.answers} answers, the longest {health.longest_seconds:.2f} s")
            assert took_seconds <= RETURN_SECONDS
            assert busiest_second(tries) <= RATE
            assert health.failures == []
            assert health.longest_seconds <= HEALTH_SECONDS
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
