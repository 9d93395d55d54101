"""A Prometheus of one's own: started, asked and stopped, for tests and for pictures.

Owns its configuration, its process and its HTTP API. Rules can be made to run sixty times faster,
a minute in them being a second, so that one need not wait for an alert.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

__all__ = ["RULE_FILES", "Prometheus", "faster", "free_port"]

HERE = Path(__file__).parent
RULE_FILES = (HERE / "recording_rules.yaml", HERE / "alert_rules.yaml")
START_SECONDS = 60.0
STOP_SECONDS = 10.0
JOB = "tunnelfleet"

_MINUTES = re.compile(r"\b(\d+)m\b")


def faster(rules: str) -> str:
    """The rules with seconds for minutes."""
    return _MINUTES.sub(r"\1s", rules)


def free_port() -> int:
    """A port of loopback that nobody listens on, of those that the kernel gives to no caller."""
    for port in random.SystemRandom().sample(range(10_240, 32_768), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free")


class Prometheus:
    """Use it as a context manager.

    Args:
        target: host and port to scrape.
        scrape_seconds: how often.
        scrape: more settings of the scrape job.
    """

    def __init__(self, target: str, scrape_seconds: int = 1, **scrape: object) -> None:
        self._target = target
        self._scrape_seconds = scrape_seconds
        self._scrape = scrape
        self._folder = tempfile.TemporaryDirectory(prefix="tunnelfleet-prometheus-")
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # nosec B607
                [  # noqa: S607 (the system's)
                    "prometheus",
                    f"--config.file={self._configure(folder)}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (folder / "log").read_text()
                self.__exit__()
                raise RuntimeError(f"prometheus does not start: {text}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_SECONDS)
        self._folder.cleanup()

    def _configure(self, folder: Path) -> Path:
        for path in RULE_FILES:
            (folder / path.name).write_text(faster(path.read_text()))
        every = f"{self._scrape_seconds}s"
        config = {
            "global": {
                "scrape_interval": every,
                "scrape_timeout": every,
                "evaluation_interval": every,
            },
            "rule_files": [path.name for path in RULE_FILES],
            "scrape_configs": [
                {
                    "job_name": JOB,
                    "static_configs": [{"targets": [self._target]}],
                    **self._scrape,
                }
            ],
        }
        path = folder / "prometheus.yaml"
        # JSON is YAML.
        path.write_text(json.dumps(config))
        return path

    def _is_ready(self) -> bool:
        try:
            # The address is that of the process above.
            ready = f"{self.url}/-/ready"
            with urllib.request.urlopen(ready, timeout=5) as answer:  # noqa: S310  # nosec B310
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def ask(self, path: str, **parameters: object) -> Any:
        """The `data` of an answer of the API."""
        query = urllib.parse.urlencode(parameters)
        url = f"{self.url}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # nosec B310
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        result: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return result

    def value(self, expr: str) -> float | None:
        """The value of a query with one sample; None without any."""
        result = self.query(expr)
        return float(result[0]["value"][1]) if result else None

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of a range query."""
        result: list[dict[str, Any]] = self.ask(
            "query_range", query=expr, start=start, end=end, step=step
        )["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """The rules as it understood them: name, type and query of each."""
        groups = self.ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}
