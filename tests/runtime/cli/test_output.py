"""Output that nobody reads, or whose reader has gone, holds up nothing and ends nothing."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import queue
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import websocket

from tests.support.commands import WAIT_SECONDS
from tests.support.service_client import CLIENT_TOKEN, SUBPROTOCOL
from tests.support.waiting import eventually
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.cli import output as module
from tunnelfleet.runtime.cli.output import LineOutput, log_lines, take, write_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from tunnelfleet.runtime.service import TunnelService


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    reads, writes = os.pipe()
    try:
        with os.fdopen(writes, "w") as stream:
            yield reads, stream
    finally:
        os.close(reads)


def fill_pipe(stream: TextIO) -> int:
    """Fill a pipe to the brim; return how many bytes it took."""
    os.set_blocking(stream.fileno(), False)
    filled = 0
    try:
        while True:
            filled += os.write(stream.fileno(), b"." * 65_536)
    except BlockingIOError:
        os.set_blocking(stream.fileno(), True)
        return filled


def read(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return data


def test_what_is_written_comes_out_in_order_from_any_thread() -> None:
    with pipe() as (reads, stream), LineOutput(stream) as output:
        texts = [f"{number}\n" for number in range(1_000)]
        for text in texts:
            output.write(text)
        output.flush()
        assert read(reads, len("".join(texts))).decode() == "".join(texts)


def test_what_waits_at_the_end_is_written() -> None:
    with pipe() as (reads, stream):
        with LineOutput(stream) as output:
            output.write("last words\n")
        assert os.read(reads, 100) == b"last words\n"
        output.write("too late\n")
        output.close()
        assert output.dropped_lines == 1


def test_a_stream_without_a_descriptor_and_none_at_all() -> None:
    buffer = io.StringIO()
    with LineOutput(buffer) as output:
        output.write("hello\n")
        assert not output.isatty()
        with pytest.raises(OSError, match="descriptor"):
            output.fileno()
    assert buffer.getvalue() == "hello\n"
    with LineOutput(None) as output:
        output.write("hello\n")
    assert output.dropped_lines == 1


def test_nobody_waits_for_who_does_not_read_and_what_is_lost_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_CHARACTERS", 1_000)
    with pipe() as (reads, stream):
        filled = fill_pipe(stream)
        with LineOutput(stream) as output:
            for number in range(500):
                output.write(f"line {number:04}\n")
            assert output.dropped_lines >= 390
            read(reads, filled)
            eventually(lambda: output._waiting_characters == 0)
            output.write("end\n")
        stream.close()
        said = os.read(reads, 65_536).decode().splitlines()
    kept = 500 - output.dropped_lines
    assert said[:kept] == [f"line {number:04}" for number in range(kept)]
    assert said[kept:] == [
        f"{output.dropped_lines} lines were not written: the output is too slow",
        "end",
    ]


def test_the_end_waits_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    with pipe() as (_reads, stream):
        fill_pipe(stream)
        with LineOutput(stream) as output:
            output.write("never read\n")
        assert not output._thread.is_alive()
        write_line(stream, "nor this")


def test_a_reader_that_has_gone_is_noticed_once_and_costs_lines() -> None:
    gone: list[int] = []
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as stream:
        os.close(reads)
        with LineOutput(stream, on_reader_gone=lambda: gone.append(1)) as output:
            output.write("one\n")
            eventually(lambda: output.reader_gone)
            output.write("two\n")
    assert gone == [1]
    assert output.dropped_lines == 1


def test_the_log_of_a_command_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher logs: with a pipe that is full it would stand still."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    logger = logging.getLogger("tunnelfleet.test")
    with pipe() as (_reads, stream):
        fill_pipe(stream)
        with LineOutput(stream) as output, log_lines(stream=output.as_text()):
            logging_thread = threading.Thread(
                target=lambda: [logger.warning("x" * 1_000) for _ in range(2_000)]
            )
            logging_thread.start()
            logging_thread.join(WAIT_SECONDS)
            assert not logging_thread.is_alive()
        assert output.dropped_lines > 0


def test_a_main_thread_that_waits_looks_for_signals_now_and_then() -> None:
    """Python does not wake a thread for a signal that came while it was about to block."""
    waited: list[float] = []

    class Inbox:
        def get(self, timeout: float) -> str:
            waited.append(timeout)
            if len(waited) < 3:
                raise queue.Empty
            return "a signal"

    assert take(Inbox()) == "a signal"  # type: ignore[arg-type]
    assert waited == [module.SIGNAL_SECONDS] * 3


class PipedCommand:
    """A command as a process whose output nobody reads."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tunnelfleet.runtime.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=4_096,
            env={**os.environ, **environment},
        )
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self.out, self.err = self.popen.stdout, self.popen.stderr

    def end(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(WAIT_SECONDS)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self.out.close()
        self.err.close()


@pytest.fixture
def commands() -> Iterator[list[PipedCommand]]:
    made: list[PipedCommand] = []
    yield made
    for each in made:
        each.close()


def localproxy(commands: list[PipedCommand], service: TunnelService, *options: str) -> PipedCommand:
    tokens = service.open_tunnel(f"t{len(commands)}", ["SSH"])
    commands.append(
        PipedCommand(
            *("localproxy", "-e", service.endpoint, "-s", "SSH=0", *options),
            AWSIOT_TUNNEL_ACCESS_TOKEN=tokens.source_token,
        )
    )
    return commands[-1]


def make_events(service: TunnelService, count: int) -> None:
    """Have a localproxy write so many lines, once it is connected."""
    eventually(lambda: service.tunnels()[0].source_connected)
    for _ in range(count):
        service.session_reset("t0")


def waiting_bytes(stream: Any) -> int:
    """What is in a pipe that we have the reading end of."""
    return int(struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, bytes(4)))[0])


def test_localproxy_ends_by_a_signal_although_nobody_reads_it(
    commands: list[PipedCommand], service: TunnelService
) -> None:
    command = localproxy(commands, service, "--json")
    # Some 20 KB, for a pipe of 4.
    make_events(service, 300)
    eventually(lambda: waiting_bytes(command.out) > 0)
    assert command.end() == 0


def test_localproxy_goes_on_although_its_reader_has_gone(
    commands: list[PipedCommand], service: TunnelService
) -> None:
    command = localproxy(commands, service, "--json")
    command.out.readline()
    command.out.close()
    make_events(service, 3)
    assert b"nobody reads standard output" in command.err.readline()
    assert service.tunnels()[0].source_connected
    assert command.end() == 0


def test_service_ends_by_a_signal_although_nobody_reads_it(
    commands: list[PipedCommand],
) -> None:
    names = [f"--tunnel=tunnel-{number}=A,B,C" for number in range(100)]
    commands.append(PipedCommand("service", "--listen", "127.0.0.1:0", "--json", *names))
    eventually(lambda: waiting_bytes(commands[0].out) > 0)
    assert commands[0].end() == 0


def test_service_goes_on_although_its_reader_has_gone(commands: list[PipedCommand]) -> None:
    commands.append(PipedCommand("service", "--plain", "--listen", "127.0.0.1:0", "--json"))

    ready = json.loads(commands[0].out.readline())
    token = ready["tunnels"][0]["source_token"]
    commands[0].out.close()
    for _ in range(3):
        client = websocket.create_connection(
            f"{ready['endpoint']}/tunnel?local-proxy-mode={Mode.SOURCE}",
            header=[f"access-token: {token}", f"client-token: {CLIENT_TOKEN}"],
            subprotocols=[SUBPROTOCOL],
            timeout=WAIT_SECONDS,
        )
        assert client.recv()
        client.sock.close()
    assert b"nobody reads standard output" in commands[0].err.readline()
    assert commands[0].end() == 0


def test_an_error_is_told_to_nobody_for_a_moment_only() -> None:
    """Standard error is full as well."""
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as stream:
        fill_pipe(stream)
        popen = subprocess.Popen(
            [sys.executable, "-m", "tunnelfleet.runtime.cli", "localproxy", "-m", "neither"],
            stdout=stream,
            stderr=stream,
        )
        assert popen.wait(WAIT_SECONDS) == 2
    os.close(reads)
