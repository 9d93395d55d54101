"""What the tests of the management API share: boto3's client, raw requests, a service process."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tunnelfleet.runtime import SecureTunnel, TunnelRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGION = "us-east-1"
WAIT_SECONDS = 120.0
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@functools.cache
def _session() -> boto3.session.Session:
    # It reads the models once.
    return boto3.session.Session()


ANY_KEYS = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""The environment of a process that calls a management API which takes any key."""


def aws_client(url: str, *, key: str = KEY, secret: str = SECRET, **more: Any) -> Any:
    """Return boto3's client of this endpoint, which tries everything once."""
    return _session().client(
        "iotsecuretunneling",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=more.pop("region_name", REGION),
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=120,
            read_timeout=120,
            parameter_validation=False,
        ),
        **more,
    )


def post_raw(
    url: str, target: str | None, body: bytes, path: str = "/", method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is given; return status, headers and body of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WAIT_SECONDS)
    if target is not None:
        headers["X-Amz-Target"] = target
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def call_api(url: str, operation: str, given: object) -> tuple[int, dict[str, Any]]:
    """Call an operation without an SDK, which would not let all of it through."""
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    status, _, answer = post_raw(url, f"IoTSecuredTunneling.{operation}", body)
    return status, json.loads(answer)


class ServiceProcess:
    """A running `tunnelfleet service --json`, its first line read."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tunnelfleet", "service", "--json", *listen, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        self.seen: list[dict[str, Any]] = []
        self._rest = b""
        self.written = b""
        try:
            self.ready = self.event("ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return str(self.ready["management"])

    @property
    def endpoint(self) -> str:
        return str(self.ready["endpoint"])

    def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Return the next event of this name with these fields, passing over others."""
        while True:
            found = json.loads(self._line())
            self.seen.append(found)
            wanted = {"event": name, **fields}
            if wanted.items() <= found.items():
                return dict(found)

    def _line(self) -> bytes:
        assert self.popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            deadline = time.monotonic() + WAIT_SECONDS
            while b"\n" not in self._rest:
                assert selector.select(max(0.0, deadline - time.monotonic())), self.seen
                chunk = os.read(self.popen.stdout.fileno(), 65_536)
                assert chunk, f"it ended: {self.popen.communicate()[1].decode()}"
                self._rest += chunk
                self.written += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()

    def end(self) -> tuple[int, str]:
        """End it by SIGTERM; return status and stderr."""
        self.popen.send_signal(signal.SIGTERM)
        out, errors = self.popen.communicate(timeout=WAIT_SECONDS)
        self.written += out + errors
        return self.popen.returncode, errors.decode()

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        if not self.popen.stdout or not self.popen.stdout.closed:
            self.popen.communicate()


@contextlib.contextmanager
def both_ends(
    endpoint: str, opened: dict[str, Any], service: str, runtime: TunnelRuntime
) -> Iterator[tuple[SecureTunnel, SecureTunnel]]:
    """Connect source and destination with the tokens that OpenTunnel gave; the device echoes."""
    device = SecureTunnel(
        opened["destinationAccessToken"],
        "destination",
        endpoint,
        runtime=runtime,
        name=f"device {opened['tunnelId']}",
        on_message_received=lambda tunnel, event: tunnel.send_message(event.message),
    )
    operator = SecureTunnel(
        opened["sourceAccessToken"],
        "source",
        endpoint,
        runtime=runtime,
        name=f"operator {opened['tunnelId']}",
        services={service: "127.0.0.1:0"},
    )
    with device, operator:
        device.wait_connected(WAIT_SECONDS)
        operator.wait_connected(WAIT_SECONDS)
        yield device, operator


def assert_free_of(secrets: list[str], *texts: str | bytes | Path) -> None:
    """No secret stands in any of these."""
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        content = content if isinstance(content, bytes) else content.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content
