"""Measures the way of a byte: what one small echo costs on its way through a tunnel.

    python tools/ruler.py             a table for each way
    python tools/ruler.py --details   also the files, the actor messages and the copies, one by one
    python tools/ruler.py --json      everything, for a program

It runs a tunneling service with TLS, a destination and a source in this process, each on threads of
its own, and is itself both applications. It then sends 64 bytes *there* (source's application to
destination's) and *back*, and counts for each part, until everything is quiet again, so that what
follows (credit for the sender, say) is counted as well:

- *files* of ours in which something ran, and *calls* of our functions; each resumption of a
  generator is a call, a comprehension is none (`sys.setprofile`);
- actor *messages* handled and dispatcher *turns* taken, as the dispatchers count them;
- *copies*: how many buffers held the payload, as it is or masked. The first is the one that the
  kernel's bytes were read into, and the last one is what was handed to the kernel, so the number of
  buffers is also the number of times that the payload was copied from one place to the next. What
  OpenSSL does inside is not seen. For this the echo is repeated while every line is traced
  (`sys.settrace`) and the variables of every frame are searched.

Nothing is timed, so a busy machine gives the same figures. A timer or the heartbeat of a dispatcher
may fall into a round and add its calls; therefore there are several rounds, until each part has
counted its least three times, and that is printed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import inspect
import json
import logging
import random
import socket
import sys
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message as WireMessage

from tunnelfleet.runtime import Endpoint, Mode, TcpAddress, TunnelConfig, TunnelRuntime, TunnelState
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

PACKAGE = "tunnelfleet."
PAYLOAD_BYTES = 64
PARTS = ("source", "service", "destination")
WAYS = {"there": PARTS, "back": PARTS[::-1]}
WARM_UP_ROUNDS = 3
ROUNDS = 30
"""At most so many."""

ENOUGH_ALIKE = 3
"""When every part has counted its least so often, nothing else was in it."""

READY_SECONDS = 30.0
ECHO_SECONDS = 30.0
QUIET_SECONDS = 0.1
"""When so long nothing ran on any thread, a way is over."""

MASK_BYTES = 4
LARGEST_BUFFER_BYTES = 1_048_576
DEPTH = 3
"""How deep a variable is searched: an object's attribute, a list there, a tuple in that."""

MOST_ITEMS = 64
_NO_CALLS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
_BUFFERS = (bytes, bytearray)


@dataclass
class Part:
    """What one part did on one way.

    Attributes:
        files: in which something ran, sorted.
        calls: of our functions.
        messages: that its actors handled; None where there are none.
        turns: of its dispatchers; None where there are none.
        message_kinds: how often which actor got which message.
        copies: where each buffer that held the payload was first seen, in order.
        rounds_alike: how many of the rounds counted just this.
    """

    files: list[str] = field(default_factory=list)
    calls: int = 0
    messages: int | None = None
    turns: int | None = None
    message_kinds: dict[str, int] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    rounds_alike: int = 1


@dataclass
class Way:
    """One way, of all parts.

    Attributes:
        parts: in the order in which the bytes pass them.
        rounds: how often it was measured.
    """

    parts: dict[str, Part]
    rounds: int = 1

    @property
    def files(self) -> list[str]:
        """The files of all parts; one that two parts use counts once."""
        return sorted({name for part in self.parts.values() for name in part.files})


class Recorder:
    """Is told of every call, and in the second pass of every line, on the threads of the parts.

    `install` comes before the threads are started: a thread takes its profiler and its tracer
    along when it starts.
    """

    def __init__(self) -> None:
        self.events = 0
        self._counting = False
        self._tracing = False
        self._parts: dict[int, str] = {}
        self._calls: list[tuple[str, str]] = []
        self._messages: list[tuple[str, str]] = []
        self._search = PayloadSearch(b"")

    @contextlib.contextmanager
    def install(self) -> Iterator[None]:
        """Profile and trace the threads that are started inside."""
        profiler, tracer = threading.getprofile(), threading.gettrace()
        threading.setprofile(self._profile)
        threading.settrace(self._trace)
        try:
            yield
        finally:
            # A debugger or a measurement of coverage may have had others.
            threading.setprofile(profiler)
            threading.settrace(tracer)

    @contextlib.contextmanager
    def threads_of(self, part: str) -> Iterator[None]:
        """The threads that are started inside belong to a part."""
        before = set(threading.enumerate())
        yield
        for thread in set(threading.enumerate()) - before:
            if thread.ident is not None:
                self._parts[thread.ident] = part

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count calls and messages inside."""
        self._calls.clear()
        self._messages.clear()
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    @contextlib.contextmanager
    def tracing(self, payload: bytes) -> Iterator[None]:
        """Look for copies of the payload inside."""
        self._search = PayloadSearch(payload)
        self._tracing = True
        try:
            yield
        finally:
            self._tracing = False

    def counted(self) -> dict[str, Part]:
        """What was counted, by part."""
        parts = {name: Part() for name in PARTS}
        files: dict[str, set[str]] = {name: set() for name in PARTS}
        for name, file in self._calls:
            parts[name].calls += 1
            files[name].add(file)
        for name, kind in self._messages:
            kinds = parts[name].message_kinds
            kinds[kind] = kinds.get(kind, 0) + 1
        for name, used in files.items():
            parts[name].files = sorted(used)
        return parts

    def found(self) -> dict[str, list[str]]:
        """Where the copies were first seen, by part."""
        result: dict[str, list[str]] = {name: [] for name in PARTS}
        for name, where in self._search.found:
            result[name].append(where)
        return result

    def wait_until_quiet(self) -> None:
        """Wait until nothing has run on any thread for a while."""
        pause = threading.Event()
        before = -1
        while before != self.events:
            before = self.events
            pause.wait(QUIET_SECONDS)

    def _profile(self, frame: FrameType, event: str, _arg: object) -> None:
        if not self._counting or event != "call":
            return
        self.events += 1
        part = self._parts.get(threading.get_ident())
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        if part is None or not module.startswith(PACKAGE) or code.co_name in _NO_CALLS:
            return
        self._calls.append((part, _file_of(module, code)))
        kind = _kind_of_message(frame)
        if kind:
            self._messages.append((part, kind))

    def _trace(self, frame: FrameType, _event: str, _arg: object) -> Any:
        if not self._tracing or threading.get_ident() not in self._parts:
            return None
        self._trace_line(frame, "call", None)
        return self._trace_line

    def _trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if not self._tracing:
            return None
        self.events += 1
        part = self._parts[threading.get_ident()]
        for value in frame.f_locals.values():
            self._search.look_at(value, part, frame)
        if event == "return":
            self._search.look_at(arg, part, frame)
        return self._trace_line


def _kind_of_message(frame: FrameType) -> str:
    """Who handles a message of which kind, if that begins here: in `on_receive`, or from a turn."""
    name, caller = frame.f_code.co_name, frame.f_back.f_code.co_name if frame.f_back else ""
    values = list(frame.f_locals.values())[:2]
    if len(values) < len(("actor", "message")) or caller == "on_receive":
        return ""
    actor, message = values
    is_direct = caller == "_turn" and type(message) in getattr(type(actor), "HANDLERS", ())
    if name != "on_receive" and not is_direct:
        return ""
    return f"{type(actor).__name__} <- {type(message).__name__}"


def _file_of(module: str, code: CodeType) -> str:
    path = module.removeprefix(PACKAGE).replace(".", "/")
    return f"{path}/__init__.py" if code.co_filename.endswith("__init__.py") else f"{path}.py"


class PayloadSearch:
    """Finds the buffers that hold a payload, masked with any 4-byte key or not.

    In a masked payload bytes that are four apart differ as they do in the payload itself, because
    the same byte of the key was applied to both. So it is these differences that are looked for.

    Attributes:
        found: part and place of each buffer, in the order in which they were seen.
    """

    def __init__(self, payload: bytes) -> None:
        self.found: list[tuple[str, str]] = []
        self._needle = _differences(payload)
        # Keeping what was seen keeps its id from being given to another object.
        self._seen: dict[int, object] = {}
        self._holders: dict[int, object] = {}
        self._lock = threading.Lock()

    def look_at(self, value: object, part: str, frame: FrameType) -> None:
        """Search a variable of a frame of a part."""
        for holder, content in _buffers_in(value, DEPTH):
            with self._lock:
                if id(holder) in self._holders or id(holder) in self._seen:
                    continue
                if self._needle in _differences(content):
                    self._holders[id(holder)] = holder
                    self.found.append((part, _place(holder, frame)))
                elif isinstance(holder, bytes):
                    # Only what cannot change need not be searched again.
                    self._seen[id(holder)] = holder


def _differences(data: bytes | bytearray) -> bytes:
    size = len(data) - MASK_BYTES
    if size <= 0:
        return b"" if not data else b"\x00"
    ahead = int.from_bytes(data[MASK_BYTES:], "big")
    return (int.from_bytes(data[:-MASK_BYTES], "big") ^ ahead).to_bytes(size, "big")


def _place(holder: object, frame: FrameType) -> str:
    module = frame.f_globals.get("__name__", "?")
    code = frame.f_code
    where = _file_of(module, code) if module.startswith(PACKAGE) else module
    return f"{type(holder).__name__} in {where} {code.co_name}"


def _buffers_in(value: object, depth: int) -> Iterator[tuple[object, bytes | bytearray]]:
    """Each buffer that a value is or holds: the object it is, and its bytes."""
    if isinstance(value, memoryview):
        try:
            value = value.obj
        except ValueError:  # it was released
            return
    if isinstance(value, _BUFFERS):
        if PAYLOAD_BYTES <= len(value) <= LARGEST_BUFFER_BYTES:
            yield value, value
    elif isinstance(value, WireMessage):
        # It has a copy of its own, in memory of the protobuf library.
        payload = getattr(value, "payload", b"")
        if len(payload) >= PAYLOAD_BYTES:
            yield value, payload
    elif depth > 0:
        # The attributes of an object that a variable is, but not those of what it knows: from an
        # actor everything can be reached.
        for item in _items_of(value) if depth < DEPTH else [*_items_of(value), *_attributes(value)]:
            yield from _buffers_in(item, depth - 1)


def _items_of(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())[:MOST_ITEMS]
    if isinstance(value, list | tuple | collections.deque | set | frozenset):
        return list(value)[:MOST_ITEMS]
    return []


def _attributes(value: object) -> list[object]:
    module = type(value).__module__
    if not module.startswith((PACKAGE, "websocket")) or isinstance(value, type):
        return []
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    items = [inspect.getattr_static(value, name, None) for name in names if name != "__dict__"]
    items = [_slot_value(value, item) for item in items]
    return [*items, *list(getattr(value, "__dict__", {}).values())][:MOST_ITEMS]


def _slot_value(owner: object, member: object) -> object:
    if inspect.ismemberdescriptor(member):
        # Read past any property or __getattr__, which would run code of what is measured.
        with contextlib.suppress(AttributeError):
            return member.__get__(owner, type(owner))
    return None


class Tunnel:
    """A service, both ends of a tunnel through it, and a connection from end to end.

    Attributes:
        near: the socket of the source's application.
        far: the socket of the destination's application.
        runtimes: that hold the ends, by part.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stack = contextlib.ExitStack()
        self.runtimes: dict[str, TunnelRuntime] = {}
        self.near: socket.socket
        self.far: socket.socket

    def __enter__(self) -> Tunnel:
        with self._stack as stack:
            stack.enter_context(self._recorder.install())
            with self._recorder.threads_of("service"):
                service = stack.enter_context(TunnelService(tls=True))
            tokens = service.open_tunnel("ruler", ["ECHO"])
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server.settimeout(READY_SECONDS)
            target = TcpAddress(*server.getsockname()[:2])
            self._open(service, Mode.DESTINATION, tokens.destination_token, target, stack)
            listen = TcpAddress("127.0.0.1", 0)
            source = self._open(service, Mode.SOURCE, tokens.source_token, listen, stack)
            assert isinstance(source, TcpAddress)
            self.near = stack.enter_context(
                socket.create_connection((source.host, source.port), timeout=ECHO_SECONDS)
            )
            self.far = stack.enter_context(server.accept()[0])
            self.far.settimeout(ECHO_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _open(
        self,
        service: TunnelService,
        mode: Mode,
        token: str,
        address: TcpAddress,
        stack: contextlib.ExitStack,
    ) -> object:
        """Open one end, in a runtime of its own; returns where a source listens."""
        config = TunnelConfig(
            name=str(mode),
            mode=mode,
            endpoint=Endpoint.parse(service.endpoint),
            access_token=token,
            services={"ECHO": address},
        )
        with self._recorder.threads_of(str(mode)):
            runtime = TunnelRuntime(ssl_context=service.ssl_context())
            self.runtimes[str(mode)] = stack.enter_context(runtime)
            tunnel = runtime.open_tunnel(config)
            tunnel.wait_for(TunnelState.CONNECTED, READY_SECONDS)
            if mode is Mode.SOURCE:
                return tunnel.wait_listening("ECHO", READY_SECONDS)
        return None

    def carry(self, way: str, payload: bytes) -> None:
        """Send a payload one way and wait until it has arrived."""
        sender, receiver = (self.near, self.far) if way == "there" else (self.far, self.near)
        sender.sendall(payload)
        received = b""
        while len(received) < len(payload):
            data = receiver.recv(len(payload) - len(received))
            if not data:
                raise ConnectionError(f"the tunnel ended on the way {way}")
            received += data
        if received != payload:
            raise ConnectionError(f"the tunnel changed the bytes on the way {way}")

    def work(self) -> dict[str, tuple[int, int]]:
        """Messages handled and turns taken so far, by part."""
        return {
            part: (
                sum(each.stats.messages_handled for each in runtime.dispatchers),
                sum(each.stats.turns for each in runtime.dispatchers),
            )
            for part, runtime in self.runtimes.items()
        }


def measure(rounds: int = ROUNDS) -> dict[str, Way]:
    """Measure both ways.

    Args:
        rounds: how often at most.

    Raises:
        ConnectionError: the tunnel broke, or did not carry what it was given.
    """
    recorder = Recorder()
    numbers = random.Random(PAYLOAD_BYTES)
    seen: dict[str, list[dict[str, Part]]] = {way: [] for way in WAYS}
    with Tunnel(recorder) as tunnel:
        for _ in range(WARM_UP_ROUNDS):
            for way in WAYS:
                tunnel.carry(way, numbers.randbytes(PAYLOAD_BYTES))
        for _ in range(rounds):
            for way in WAYS:
                seen[way].append(_measure_once(tunnel, recorder, way, numbers))
            if all(part.rounds_alike >= ENOUGH_ALIKE for way in WAYS for part in _least(seen[way])):
                break
    return {
        way: Way(dict(zip(parts, _least(seen[way]), strict=True)), len(seen[way]))
        for way, parts in WAYS.items()
    }


def _measure_once(
    tunnel: Tunnel, recorder: Recorder, way: str, numbers: random.Random
) -> dict[str, Part]:
    with recorder.counting():
        recorder.wait_until_quiet()
    before = tunnel.work()
    with recorder.counting():
        tunnel.carry(way, numbers.randbytes(PAYLOAD_BYTES))
        recorder.wait_until_quiet()
    counted = recorder.counted()
    for part, (messages, turns) in tunnel.work().items():
        counted[part].messages = messages - before[part][0]
        counted[part].turns = turns - before[part][1]
    payload = numbers.randbytes(PAYLOAD_BYTES)
    with recorder.tracing(payload):
        tunnel.carry(way, payload)
        recorder.wait_until_quiet()
    for part, places in recorder.found().items():
        counted[part].copies = places
    return {part: counted[part] for part in WAYS[way]}


def _least(rounds: list[dict[str, Part]]) -> list[Part]:
    """Of each part, in the order of the way, the round that counted the least."""
    result = []
    for name in rounds[0]:
        measured = [each[name] for each in rounds]
        least = min(measured, key=lambda part: (part.calls, part.turns or 0, len(part.copies)))
        result.append(replace(least, rounds_alike=measured.count(least)))
    return result


def to_json(ways: dict[str, Way]) -> dict[str, Any]:
    """The result as JSON has it, the sums included."""
    return {
        name: {**asdict(way), "total": dict(zip(COLUMNS, total_of(way), strict=True))}
        for name, way in ways.items()
    }


COLUMNS = ("files", "calls", "messages", "turns", "copies")


def _row(part: Part) -> tuple[int | None, ...]:
    return len(part.files), part.calls, part.messages, part.turns, len(part.copies)


def total_of(way: Way) -> tuple[int, ...]:
    """The sums over all parts, in the order of COLUMNS; a file that two parts use counts once."""
    sums = zip(*[_row(part) for part in way.parts.values()], strict=True)
    _files, *others = [sum(each or 0 for each in column) for column in sums]
    return len(way.files), *others


def print_table(ways: dict[str, Way], *, details: bool = False) -> None:
    """Print the result for people."""
    for name, way in ways.items():
        rows = {part: _row(found) for part, found in way.parts.items()}
        rows["total"] = total_of(way)
        print(f"{name:<12}" + "".join(f"{column:>10}" for column in COLUMNS))
        for part, row in rows.items():
            print(f"{part:<12}" + "".join(f"{'-' if x is None else x:>10}" for x in row))
        alike = min(part.rounds_alike for part in way.parts.values())
        print(f"each part counted just this in {alike} or more of {way.rounds} rounds\n")
        if details:
            for part, found in way.parts.items():
                _print_details(part, found)


def _print_details(name: str, part: Part) -> None:
    kinds = [f"{count} x {kind}" for kind, count in sorted(part.message_kinds.items())]
    for title, lines in (("files", part.files), ("messages", kinds), ("copies", part.copies)):
        if lines:
            print(f"  {name}, {title}:")
            print("".join(f"    {line}\n" for line in lines))


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(description="Count what an echo through a tunnel costs.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--details", action="store_true", help="also what was counted")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at most (default: {ROUNDS})")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    # Tracing every line makes a turn slow, which the kernel would report.
    logging.getLogger("tunnelfleet").setLevel(logging.ERROR)
    ways = measure(options.rounds)
    if options.json:
        print(json.dumps(to_json(ways), indent=2))
    else:
        print_table(ways, details=options.details)
    return 0


if __name__ == "__main__":
    sys.exit(main())
