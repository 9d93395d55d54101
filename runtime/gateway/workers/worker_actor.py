"""WorkerActor: one worker process, from its start to its end.

Owns the process and the socket to it: what the worker is told waits here until the kernel takes it,
within a limit; what it tells goes to the actors of its tunnels. The actor fails when the process
ends or gives no sign of life, and its supervisor starts another one after a while. `Launcher` has
the threads on which starting a process and waiting for its end may block.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import pykka
from pykka import ActorRef

from tunnelfleet.actors.config import stood_still_seconds
from tunnelfleet.actors.kernel import ChildReady, DispatchedActor, ExitReason, Reply
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.transport.connect_gate import ConnectStats
from tunnelfleet.proto import TunnelClosed, counted
from tunnelfleet.runtime.gateway.process import ActorNode

from . import messages

if TYPE_CHECKING:
    from .sums import WorkerEntry, WorkerTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """A process, and the gateway's end of the way to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


PROGRAM: Final = (sys.executable, "-m", "tunnelfleet.runtime.gateway.workers")
EXIT_SECONDS: Final = 5.0
"""How long a worker that has lost the gateway may take to end; then it is killed."""
_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables by which a process speaks for the gateway to its service manager."""


class Launcher:
    """Starts processes.

    Args:
        count: how many there are at once.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="tunnelfleet-worker")
        self._running: set[subprocess.Popen[bytes]] = set()

    def start_process(self) -> Future[Started]:
        """Start a worker on a thread that may wait.

        Raises:
            RuntimeError: all has ended.
        """
        return self._threads.submit(self._start)

    def _start(self) -> Started:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - this program, and a number
                    [*PROGRAM, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={k: v for k, v in os.environ.items() if k not in _NOT_INHERITED},
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._running.add(process)
        return Started(process, ours)

    def wait_process(self, process: subprocess.Popen[bytes]) -> Future[int] | None:
        """Wait for the end of a worker that has lost the gateway, on a thread that may.

        A worker that does not end in time is killed.

        Returns:
            Its exit status; None if all has ended, and it was killed.
        """
        try:
            return self._threads.submit(self._wait, process)
        except RuntimeError:
            process.kill()
            return None

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            status = process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._running.discard(process)
        return status

    def close(self) -> None:
        """End what still runs, when the actors are over. Safe to call twice."""
        self._threads.shutdown(wait=True)
        for process in list(self._running):
            process.kill()
            self._wait(process)


READ_BYTES: Final = 262_144
"""How much is read in one turn."""
MAX_WAITING_BYTES: Final = 67_108_864
"""How much may wait that the worker has not read; with more it counts as hung."""
HUNG_SECONDS: Final = 20.0
"""After so long without a sign of life a worker is killed."""
START_SECONDS: Final = 60.0
"""How long the first sign of life may take."""
LOOK_SECONDS: Final = 1.0
"""How often it is looked whether the worker is alive; what the kernel had no memory for is sent
again then."""


class _WorkerOutput(Enum):
    """What has to come before more is sent to the worker."""

    OPEN = auto()
    """Nothing: all has been sent."""
    FULL = auto()
    """The worker has to read."""
    RESTING = auto()
    """The next look has to come, for the kernel had no memory."""
    OVER = auto()
    """It takes nothing more. Its end is read behind what it has said."""


class _Lent(NamedTuple):
    """A copy of a client's socket, which goes with the first byte of its message."""

    descriptor: int
    message: dict[str, Any]


class WorkerEndedError(Exception):
    """A worker process has ended, or had to be."""


class _Spawned(NamedTuple):
    started: Started


class _Reaped(NamedTuple):
    status: int


class _Look(NamedTuple):
    """It is time to look whether the worker is alive."""


class WorkerActor(DispatchedActor):
    """One worker process.

    Args:
        table: of all workers.
        launcher: starts it, and waits for its end.
        worker: its entry in the table, which is kept up to date.
    """

    def __init__(self, table: WorkerTable, launcher: Launcher, worker: WorkerEntry) -> None:
        super().__init__()
        self._table = table
        self._launcher = launcher
        self._worker = worker
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._decoder = messages.MessageDecoder()
        self._waiting: deque[tuple[memoryview, _Lent | None]] = deque()
        """What the kernel has not taken."""
        self._waiting_bytes = 0
        self._output = _WorkerOutput.OPEN
        self._is_ready = False
        self._reason = ""
        """Why it is being ended; empty if it is not."""
        self._trees: dict[int, Reply] = {}
        self._look_at = 0.0
        """When the next look is due, in monotonic seconds."""

    def on_start(self) -> None:
        """Start the process."""
        self._worker.beat_at = time.monotonic()
        self._worker.starts += 1
        self.pipe_to_self(
            self._launcher.start_process(),
            lambda done: _Spawned(done.result()),
            discard=self._discard,
        )
        self._look_again()

    def _discard(self, done: Any) -> None:
        """This actor has ended before the process was there."""
        if done.exception() is None:
            done.result().sock.close()
            self._launcher.wait_process(done.result().process)

    def _on_spawned(self, message: _Spawned) -> None:
        self._process, self._sock = message.started.process, message.started.sock
        self._worker.pid = self._process.pid
        self.add_reader(self._sock, self._on_readable)
        begin = {
            "do": messages.Do.BEGIN,
            "rate_per_second": self._table.rate_per_second,
            "concurrency": self._table.concurrency,
            **self._table.gate_fields(),
            "log_level": logging.getLogger("tunnelfleet").getEffectiveLevel(),
        }
        self._send(messages.encode_frame(begin))

    # -- what it is told

    def _on_to_worker(self, message: messages.ToWorker) -> None:
        if self._sock is None or self._reason:
            return
        frame, lent = messages.encode_frame(message.message), None
        if message.sock is not None:
            try:
                lent = _Lent(_copy_of(message.sock), message.message)
            except OSError as error:
                self._refuse(message.message, error)
                return
        self._send(frame, lent)

    def _refuse(self, message: dict[str, Any], error: OSError) -> None:
        """Answer in the worker's place that it does not take a socket: it was told nothing."""
        kind, text = messages.EXHAUSTED, error.strerror
        if error.errno == errno.EBADF:
            kind, text = TunnelClosed.__name__, "the socket was closed meanwhile"
        else:
            self._table.exhaustion.note(f"handing a socket over to {self._worker.name}", error)
        answer = {"serial": message.get("serial"), "number": message.get("number")}
        self._pass_on(messages.Is.CARRIED, {**answer, "error": [kind, text]})

    def _on_ask_tree(self, _message: messages.AskTree) -> None:
        number = max(self._trees, default=0) + 1
        self._trees[number] = self.defer_reply()
        self._send(messages.encode_frame({"do": messages.Do.TREE, "number": number}))

    def _send(self, frame: bytes, lent: _Lent | None = None) -> None:
        self._waiting.append((memoryview(frame), lent))
        self._waiting_bytes += len(frame)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._end("it does not read what it is told")
        elif self._output is _WorkerOutput.OPEN:
            self._write()

    def _send_first(self, sock: socket.socket) -> None:
        """Send what waits in front, as much as the kernel takes."""
        data, lent = self._waiting[0]
        if lent is None:
            sent = sock.send(data)
        else:
            sent = socket.send_fds(sock, [data], [lent.descriptor])
            os.close(lent.descriptor)
        self._waiting_bytes -= sent
        if sent < len(data):
            self._waiting[0] = data[sent:], None
        else:
            self._waiting.popleft()

    def _refuse_first(self, error: OSError) -> bool:
        """Give up the hand-over in front, of which nothing was sent; return whether there is one.

        The kernel may take no more descriptors for long, as with ETOOMANYREFS. What waits behind
        this one does not wait for that, and its asker asks again.
        """
        data, lent = self._waiting[0]
        if lent is None:
            return False
        self._waiting.popleft()
        self._waiting_bytes -= len(data)
        os.close(lent.descriptor)
        self._refuse(lent.message, error)
        return True

    def _send_waiting(self, sock: socket.socket) -> _WorkerOutput:
        """Send what waits, as far as possible; return what has to come before more is sent."""
        while self._waiting:
            try:
                self._send_first(sock)
            except BlockingIOError:
                return _WorkerOutput.FULL
            except ConnectionError:
                return _WorkerOutput.OVER
            except OSError as error:
                if not self._refuse_first(error):
                    return _WorkerOutput.RESTING
        return _WorkerOutput.OPEN

    def _write(self) -> None:
        sock = self._sock
        if sock is None:
            return
        before, self._output = self._output, self._send_waiting(sock)
        if self._output is _WorkerOutput.FULL and before is not _WorkerOutput.FULL:
            self.add_writer(sock, self._write)
        elif before is _WorkerOutput.FULL and self._output is not _WorkerOutput.FULL:
            self.remove_writer(sock)

    # -- what it tells

    def _on_readable(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end("its process has ended")
            return
        try:
            for message in self._decoder.feed(data):
                self._take(message)
        except (messages.FrameError, KeyError, TypeError, ValueError) as error:
            logger.error("%s says what nobody understands: %r", self._worker.name, error)
            self._end("it says what nobody understands")

    def _take(self, message: dict[str, Any]) -> None:
        kind = messages.Is(message["is"])
        match kind:
            case messages.Is.STARTED:
                self._on_started()
            case messages.Is.BEAT:
                self._on_beat(message)
            case messages.Is.REPORT:
                for each in message["tunnels"]:
                    self._pass_on(kind, each)
            case messages.Is.LOG:
                self._log(message)
            case messages.Is.TREE:
                reply = self._trees.pop(message["number"], None)
                if reply is not None:
                    reply.set([ActorNode(**each) for each in message["nodes"]])
            case _:
                self._pass_on(kind, message)

    def _pass_on(self, kind: messages.Is, message: dict[str, Any]) -> None:
        ref = self._worker.tunnels.get(message["serial"])
        if ref is not None:
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell(messages.Told(kind, message))

    def _on_started(self) -> None:
        worker = self._worker
        worker.beat_at = time.monotonic()
        worker.ref = self.actor_ref
        self._is_ready = True
        supervisor: ActorRef[Any] | None = self._table.supervisor
        if supervisor is not None:
            with contextlib.suppress(pykka.ActorDeadError):
                supervisor.tell(ChildReady(self.actor_ref))
        logger.info(
            "%s runs, process %d, with %s",
            worker.name,
            worker.pid,
            counted(len(worker.tunnels), "tunnel"),
            extra={"event": "worker", "fields": {"worker": worker.number, "pid": worker.pid}},
        )
        worker.tell_tunnels(messages.WorkerUp(self.actor_ref))

    def _on_beat(self, message: dict[str, Any]) -> None:
        if message["alive"]:
            self._worker.beat_at = time.monotonic()
        stats = messages.from_json(message["connects"])
        assert isinstance(stats, ConnectStats)
        self._table.take_connects(self._worker.number, stats)

    def _log(self, message: dict[str, Any]) -> None:
        name, level = str(message["name"]), int(message["level"])
        if level >= logging.WARNING or name.partition(".")[0] == "tunnelfleet":
            extra = {"tunnel": message["tunnel"]} if "tunnel" in message else None
            logging.getLogger(name).log(level, "%s", message["text"], extra=extra)

    # -- its end

    def _on_look(self, _message: _Look) -> None:
        now = time.monotonic()
        # What is frozen is often all of a gateway, its workers too.
        excused_at = self._worker.beat_at + stood_still_seconds(self._look_at, now)
        self._worker.beat_at = min(now, excused_at)
        self._look_again()
        if self._output is _WorkerOutput.RESTING:
            self._write()
        limit_seconds = HUNG_SECONDS if self._is_ready else START_SECONDS
        if not self._reason and now - self._worker.beat_at > limit_seconds:
            self._end(f"it gave no sign of life for {limit_seconds:g} s, and was killed")

    def _look_again(self) -> None:
        self._look_at = time.monotonic() + LOOK_SECONDS
        self.schedule(LOOK_SECONDS, _Look())

    def _end(self, reason: str) -> None:
        """End a worker that is of no use any more, before its tunnels run elsewhere."""
        if self._reason or self._process is None:
            return
        self._reason = reason
        self._worker.ref = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self.remove_reader(sock)
            self.remove_writer(sock)
            sock.close()
        if reason != "its process has ended":
            self._process.kill()
        reaped = self._launcher.wait_process(self._process)
        if reaped is None:
            self._on_reaped(_Reaped(-9))
        else:
            self.pipe_to_self(reaped, lambda done: _Reaped(done.result()))

    def _on_reaped(self, message: _Reaped) -> None:
        status = message.status
        how = f"signal {-status}" if status < 0 else f"status {status}"
        worker = self._worker
        text = f"{worker.name} (process {worker.pid}, {how}): {self._reason}"
        logger.error(
            "%s; it is started again, and its %s with it",
            text,
            counted(len(worker.tunnels), "tunnel", "returns", "return"),
            extra={"event": "worker_ended", "fields": {"worker": worker.number, "pid": worker.pid}},
        )
        self._process = None
        self.exit(ExitReason.failed(WorkerEndedError(text)))

    def _on_end(self, reason: ExitReason) -> None:
        """Leave no process, whatever ended this actor."""
        super()._on_end(reason)
        worker, sock, process = self._worker, self._sock, self._process
        worker.ref, worker.pid = None, 0
        self._sock = self._process = None
        if sock is not None:
            # It ends by itself when it reads that.
            sock.close()
        for _data, lent in self._waiting:
            if lent is not None:
                os.close(lent.descriptor)
        self._waiting.clear()
        if process is not None:
            if reason.is_failure:
                process.kill()
            self._launcher.wait_process(process)
        self._table.lose_connects(worker.number)
        worker.tell_tunnels(messages.WorkerLost(f"{worker.name} has ended and is started again"))

    HANDLERS: ClassVar[Handlers] = {
        messages.ToWorker: _on_to_worker,
        messages.AskTree: _on_ask_tree,
        _Spawned: _on_spawned,
        _Reaped: _on_reaped,
        _Look: _on_look,
    }


def _copy_of(sock: socket.socket) -> int:
    """Return another descriptor of a socket that its owner may close meanwhile, on its own thread.

    Raises:
        OSError: no descriptor is left; with EBADF, the socket is closed.
    """
    number = sock.fileno()
    copy = os.dup(number)
    if sock.fileno() != number:
        # The number may have been another's already.
        os.close(copy)
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return copy
