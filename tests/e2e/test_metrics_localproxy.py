"""`tunnelfleet localproxy --admin` serves the metrics of its one tunnel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

from tests.support.commands import WAIT_SECONDS
from tests.support.waiting import eventually
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
        text: str = answer.read().decode()
        return text


def test_metrics_of_one_tunnel(tmp_path: Path) -> None:
    log = tmp_path / "out"
    with TunnelService(tls=False) as service, log.open("wb") as out:
        token = service.open_tunnel("one", ["SSH"]).source_token
        command = ["localproxy", "-m", "source", "-e", service.endpoint, "--admin", "127.0.0.1:0"]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *command],
            cwd=tmp_path,
            env={**os.environ, "AWSIOT_TUNNEL_ACCESS_TOKEN": token},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(lambda: "/metrics" in log.read_text(), log.read_text(), WAIT_SECONDS)
            found = re.search(r"(http://\S+)/metrics", log.read_text())
            assert found
            connected = 'tunnelfleet_tunnels{state="connected"} 1.0'
            eventually(lambda: connected in get(f"{found[1]}/metrics"), connected, WAIT_SECONDS)
            assert '"ready": true' in get(f"{found[1]}/readyz")
            assert "tunnelfleet_tunnel_state{" in get(f"{found[1]}/metrics")
        finally:
            process.terminate()
            assert process.wait(WAIT_SECONDS) == 0
    assert token not in log.read_text()
