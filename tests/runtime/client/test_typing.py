"""A user's program that uses the client API through the installed wheel passes `mypy --strict`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from typing import TYPE_CHECKING

import pytest

from tests.support.wheel import pip

if TYPE_CHECKING:
    from pathlib import Path

RUN_SECONDS = 200

PROGRAM = """
import asyncio
from concurrent.futures import Future

import pykka

from tunnelfleet.actors.kernel import ChildSpec
from tunnelfleet import (
    ApiEvent,
    ConnectionSuccess,
    HandshakeError,
    LocalProtocolError,
    Message,
    MessageReceived,
    Mode,
    SecureTunnel,
    SecureTunnelBuilder,
    SendMessageComplete,
    StreamStarted,
    TunnelRuntime,
    TunnelStateChanged,
)


def on_success(tunnel: SecureTunnel, event: ConnectionSuccess) -> None:
    services: tuple[str, ...] = event.service_ids
    print(tunnel.name, services)


def on_message(tunnel: SecureTunnel, event: MessageReceived) -> None:
    payload: bytes = event.message.payload
    service_id: str = event.message.service_id
    sent: Future[None] = tunnel.send_message(
        Message(payload, service_id, event.message.connection_id), timeout_seconds=1.0
    )
    try:
        sent.result(5)
    except LocalProtocolError as error:
        print(error)


def on_complete(tunnel: SecureTunnel, event: SendMessageComplete) -> None:
    error: Exception | None = event.error
    print(event.message_type.name, error)


Actor = pykka.ActorRef[pykka.ThreadingActor]


def build(token: str, runtime: TunnelRuntime, actor: Actor) -> SecureTunnel:
    return (
        SecureTunnelBuilder(token, "destination", "localhost:8443")
        .with_runtime(runtime)
        .with_services({"SSH": "127.0.0.1:22"})
        .with_events_to(actor)
        .with_on_connection_success(on_success)
        .with_on_message_received(on_message)
        .with_on_send_message_complete(on_complete)
        .build()
    )


def at_once(token: str) -> SecureTunnel:
    return SecureTunnel(
        token, Mode.SOURCE, "localhost", on_message_received=on_message, bandwidth=1e5
    )


def use(tunnel: SecureTunnel) -> None:
    try:
        services: tuple[str, ...] = tunnel.start().result(10)
    except HandshakeError as error:
        print(error.status, services)
    connection: int = tunnel.send_stream_start("A").result(1)
    number: int = tunnel.send_messages([Message(b"x", "A", connection)]).result(1)
    print(number, tunnel.callback_stats.errors)
    tunnel.stop().result(1)


async def use_async(tunnel: SecureTunnel) -> None:
    async with tunnel:
        await tunnel.connected()
        await tunnel.send(Message(b"x"))
        async for event in tunnel.events():
            known: ApiEvent = event
            if isinstance(known, StreamStarted):
                print(known.service_id)


def embed(runtime: TunnelRuntime, actor: pykka.ActorRef[pykka.ThreadingActor]) -> ChildSpec:
    runtime.subscribe(actor, tunnels=["a"], kinds=[TunnelStateChanged])
    return runtime.child_spec("tunnels")


print(asyncio.iscoroutinefunction(use_async))
"""

WRONG = """
from tunnelfleet.runtime import ConnectionSuccess, MessageReceived, SecureTunnel


def on_message(tunnel: SecureTunnel, event: ConnectionSuccess) -> None: ...


SecureTunnel("token", "source", "localhost", on_message_received=on_message)
SecureTunnel("token", "source", "localhost", on_mesage_received=print)
SecureTunnel("token", "source", "localhost").send_message(b"bytes")
"""


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel installed in it, and nothing else of this tree."""
    folder = tmp_path_factory.mktemp("typing")
    venv.create(folder / "venv", with_pip=False)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    pip("install", "--no-deps", "--no-index", "--target", str(packages), str(wheel))
    # What the wheel depends on comes from here.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv"


def mypy(site: Path, folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            f"--cache-dir={folder / 'cache'}",
            f"--python-executable={site / 'bin' / 'python'}",
            str(program),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def test_a_program_passes(site: Path, tmp_path: Path) -> None:
    done = mypy(site, tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_found(site: Path, tmp_path: Path) -> None:
    done = mypy(site, tmp_path, WRONG)
    assert done.returncode == 1
    mistakes = [line for line in done.stdout.splitlines() if "program.py" in line]
    assert len([line for line in mistakes if "error:" in line]) == 3
    assert all("Any" not in line for line in mistakes)
