"""Blocking work on a few shared threads: DNS, TCP, proxy CONNECT, TLS, WebSocket upgrade.

Owns the thread pool and the jobs on it. A job ends in one message to the actor that asked, or in
nothing if it was cancelled, and a socket that nobody took is closed. It knows nothing of tunnels'
sessions, retries or permits.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import websocket

from tunnelfleet.proto import HandshakeError, TunnelError, handshake_error, request_headers

from .config import UnixAddress

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tunnelfleet.proto import Endpoint, Mode

    from .config import Address, HttpProxy, TcpAddress

__all__ = [
    "ConnectJob",
    "ConnectRequest",
    "Connected",
    "Connector",
    "NotConnected",
    "Resolved",
    "discard",
    "resolve_numeric",
]

MAX_ERROR_BODY_BYTES = 4_096
MAX_HEADER_BYTES = 65_536
SUBPROTOCOL = "aws.iot.securetunneling-3.0"

SocketAddress: TypeAlias = tuple[socket.AddressFamily, Any]


class ConnectRequest(NamedTuple):
    """All that one attempt needs. Its `repr` would show tokens: it is never logged."""

    endpoint: Endpoint
    mode: Mode
    access_token: str
    client_token: str
    ssl_context: ssl.SSLContext | None
    http_proxy: HttpProxy | None
    local_bind: str | None
    user_agent: str
    timeout_seconds: float

    def __repr__(self) -> str:
        return f"ConnectRequest({self.endpoint}, {self.mode})"


class Connected(NamedTuple):
    """The upgrade succeeded. Whoever gets this owns the socket."""

    job: ConnectJob
    websocket: websocket.WebSocket
    channel_id: str


class NotConnected(NamedTuple):
    """The attempt failed."""

    job: ConnectJob
    error: TunnelError


class Resolved(NamedTuple):
    """A host name was looked up; `error` is set when it was not found."""

    addresses: tuple[SocketAddress, ...]
    error: str


class ConnectJob:
    """One attempt; `cancel` may be called from any thread, at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._socket: socket.socket | None = None
        self.phase = "waiting for a connect thread"
        """What it is at, for people."""

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants the result any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Give up: what the job blocks on ends at once, and its socket is closed."""
        with self._lock:
            self._cancelled = True
            if self._socket is not None:
                _shut(self._socket)

    def attach(self, sock: socket.socket) -> None:
        """Make `sock` the one that `cancel` ends.

        Raises:
            HandshakeError: the job was cancelled; the socket is closed.
        """
        with self._lock:
            if self._cancelled:
                sock.close()
                raise HandshakeError("cancelled", status=None, channel_id=None, retryable=True)
            self._socket = sock


class Connector:
    """A fixed number of threads that connect.

    Args:
        threads: how many; also the number of attempts that can be under way at once.
    """

    def __init__(self, threads: int = 4) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tunnelfleet-connect")

    def connect(
        self, request: ConnectRequest
    ) -> tuple[ConnectJob, Future[Connected | NotConnected]]:
        """Start an attempt.

        Returns:
            The job, to cancel it, and its outcome. Whoever does not take the outcome owes it
            `discard`.
        """
        job = ConnectJob()
        return job, self._pool.submit(_run, job, request)

    def resolve(self, address: TcpAddress) -> Future[Resolved]:
        """Look up where to connect for `address`."""
        return self._pool.submit(_resolve, address)

    def close(self) -> None:
        """Wait for the running jobs, which the caller has cancelled, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def resolve_numeric(address: Address) -> tuple[SocketAddress, ...] | None:
    """Where to connect for an address that needs no look-up, else None."""
    if isinstance(address, UnixAddress):
        return ((socket.AF_UNIX, address.path),)
    try:
        return _look_up(address.host, address.port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None


def _look_up(host: str, port: int, flags: int = 0) -> tuple[SocketAddress, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return tuple((family, sockaddr) for family, _type, _proto, _name, sockaddr in found)


def _resolve(address: TcpAddress) -> Resolved:
    try:
        return Resolved(_look_up(address.host, address.port), "")
    except OSError as error:
        return Resolved((), f"cannot look up {address.host!r}: {error.strerror or error}")


def discard(outcome: Future[Connected | NotConnected]) -> None:
    """Close the connection that nobody takes."""
    if not outcome.cancelled():
        result = outcome.result()
        if isinstance(result, Connected):
            result.websocket.shutdown()  # type: ignore[no-untyped-call]


def _run(job: ConnectJob, request: ConnectRequest) -> Connected | NotConnected:
    try:
        connection, channel_id = _connect(job, request)
    except TunnelError as error:
        return NotConnected(job, error)
    except Exception as error:  # noqa: BLE001  (a library's surprise is a failed attempt, not a lost thread)
        return NotConnected(job, _failure("handshake failed", error))
    return Connected(job, connection, channel_id)


def _failure(what: str, error: BaseException) -> HandshakeError:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return HandshakeError(f"{what}: {text}", status=None, channel_id=None, retryable=True)


def _connect(job: ConnectJob, request: ConnectRequest) -> tuple[websocket.WebSocket, str]:
    proxy, endpoint = request.http_proxy, request.endpoint
    target = f"cannot reach {proxy or endpoint}"
    sock = _guard(job, "connecting", target, lambda: _dial(job, request))
    try:
        if proxy is not None:
            _guard(job, "proxy CONNECT", f"proxy {proxy}", lambda: _proxy_connect(sock, request))
        if endpoint.is_tls:
            text = f"TLS with {endpoint}"
            sock = _guard(job, "TLS handshake", text, lambda: _start_tls(job, sock, request))
        job.phase = "WebSocket handshake"
        connection = _upgrade(sock, request)
    except BaseException:
        sock.close()
        raise
    channel_id = str((connection.getheaders() or {}).get("channel-id", ""))
    return connection, channel_id


def _guard(job: ConnectJob, phase: str, what: str, action: Callable[[], Any]) -> Any:
    job.phase = phase
    try:
        return action()
    except TunnelError:
        raise
    except (OSError, ValueError) as error:
        raise _failure(what, error) from error


def _dial(job: ConnectJob, request: ConnectRequest) -> socket.socket:
    target: Endpoint | HttpProxy = request.http_proxy or request.endpoint
    last_error: OSError | None = None
    job.phase = f"looking up {target.host}"
    addresses = _look_up(target.host, target.port)
    job.phase = "TCP connect"
    for family, sockaddr in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            job.attach(sock)
            sock.settimeout(request.timeout_seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if request.local_bind is not None:
                sock.bind((request.local_bind, 0))
            sock.connect(sockaddr)
        except OSError as error:
            sock.close()
            last_error = error
        else:
            return sock
    raise last_error or OSError(f"no address for {target.host!r}")


def _start_tls(job: ConnectJob, sock: socket.socket, request: ConnectRequest) -> socket.socket:
    context = request.ssl_context
    if context is None:
        raise HandshakeError(
            f"{request.endpoint} needs TLS and the tunnel has no SSLContext: pass ssl_context",
            status=None,
            channel_id=None,
            retryable=False,
        )
    host = request.endpoint.host
    wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        # wrap_socket has taken the descriptor over: from here on it is this one that cancel() ends.
        job.attach(wrapped)
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _upgrade(sock: socket.socket, request: ConnectRequest) -> websocket.WebSocket:
    connection = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
    headers = request_headers(request.access_token, request.client_token, request.user_agent)
    try:
        connection.connect(  # type: ignore[no-untyped-call]
            request.endpoint.url(request.mode),
            socket=_BoundedSocket(sock),
            header=[f"{name}: {value}" for name, value in dict(headers).items()],
            subprotocols=[SUBPROTOCOL],
            suppress_origin=True,
            # A redirect would carry the access token to a host that nobody named.
            redirect_limit=0,
            timeout=request.timeout_seconds,
        )
    except websocket.WebSocketBadStatusException as error:
        body = (error.resp_body or b"")[:MAX_ERROR_BODY_BYTES].decode("utf-8", "replace")
        headers_seen = error.resp_headers or {}
        raise handshake_error(
            error.status_code,
            body,
            headers_seen.get("channel-id"),
            secrets=(request.access_token, request.client_token),
        ) from None
    except (websocket.WebSocketException, OSError, ValueError) as error:
        raise _failure(f"WebSocket handshake with {request.endpoint}", error) from None
    connection.sock = sock
    return connection


class _BoundedSocket:
    """A socket that gives at most `MAX_HEADER_BYTES` to whoever reads the handshake.

    The library reads headers and an error's body without a limit.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._left = MAX_HEADER_BYTES

    def recv(self, size: int) -> bytes:
        if self._left <= 0:
            raise OSError(f"the answer is longer than {MAX_HEADER_BYTES} bytes")
        data = self._sock.recv(min(size, self._left))
        self._left -= len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _proxy_connect(sock: socket.socket, request: ConnectRequest) -> None:
    proxy = request.http_proxy
    assert proxy is not None
    answer = _http_connect(_BoundedSocket(sock), request.endpoint, proxy)
    status = answer.split(b" ", 2)
    if len(status) < 2 or not status[1].isdigit():
        raise OSError("the answer to CONNECT is not HTTP")
    if status[1] != b"200":
        code = int(status[1])
        raise HandshakeError(
            f"proxy {proxy} answered CONNECT with {code}: check its address, credentials and rules",
            status=code,
            channel_id=None,
            # The proxy's word is not the service's: its rules may change while we run.
            retryable=True,
        )


def _http_connect(sock: _BoundedSocket, endpoint: Endpoint, proxy: HttpProxy) -> bytes:
    """Send CONNECT; returns the status line after reading the whole header."""
    authority = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    authority = f"{authority}:{endpoint.port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.username:
        pair = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {pair}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    # Byte by byte: what follows the header belongs to TLS.
    while not answer.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise OSError("closed the connection during CONNECT")
        answer += byte
    return answer.split(b"\r\n", 1)[0]


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
