"""What of a connect blocks, on a few shared threads: proxy CONNECT, TLS, WebSocket upgrade.

Owns these threads and the jobs on them, and what else all tunnels of a runtime share for
connecting: the look-up of names, and the log line that no socket is left. A job begins with a
socket that is connected (see `dial`) and ends in one outcome for the actor that asked, or in
nothing if it was cancelled; a socket that nobody took is closed. It knows nothing of tunnels'
sessions, retries or permits.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.actors.net.daemon_threads import DaemonThreads
from tunnelfleet.actors.net.name_lookup import NameLookups
from tunnelfleet.actors.net.socket_io import ExhaustionLog, is_exhausted
from tunnelfleet.proto import (
    CHANNEL_ID_HEADER,
    MAX_ID_CHARACTERS,
    Endpoint,
    HandshakeError,
    Mode,
    Redactor,
    TunnelError,
    handshake_error,
    request_headers,
)
from tunnelfleet.proto.handshake import SWITCHING_PROTOCOLS

from .upgrade import connect_through, start_tls, upgrade


class ConnectRequest(NamedTuple):
    """All that one attempt needs. Its `repr` would show tokens: it is never logged."""

    endpoint: Endpoint
    mode: Mode
    access_token: str
    client_token: str
    ssl_context: ssl.SSLContext | None
    http_proxy: HttpProxy | None
    user_agent: str
    timeout_seconds: float

    def __repr__(self) -> str:
        return f"ConnectRequest({self.endpoint}, {self.mode})"

    @property
    def peer(self) -> Endpoint | HttpProxy:
        """What the TCP connection goes to."""
        return self.http_proxy or self.endpoint

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown should the other side write it back."""
        return self.access_token, self.client_token


class Connected(NamedTuple):
    """The upgrade succeeded. Whoever gets this owns the socket.

    Attributes:
        sock: the WebSocket.
        channel_id: the service's name for it.
        first_bytes: what has been read of the WebSocket already.
    """

    sock: socket.socket
    channel_id: str
    first_bytes: bytes


class ConnectFailed(NamedTuple):
    """The attempt failed."""

    error: TunnelError


class ConnectJob:
    """The blocking part of one attempt; `cancel` may be called from any thread, at any time.

    Args:
        sock: connected; it belongs to the job.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._lock = threading.Lock()
        self._has_begun = False
        self._is_cancelled = False
        self._socket = sock
        self.phase = "waiting for a connect thread"
        """What it is at, for people."""

    def cancel(self) -> None:
        """Give up: what the job blocks on ends at once, and its socket is closed."""
        with self._lock:
            self._is_cancelled = True
            if not self._has_begun:
                self._socket.close()
                return
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def begin(self) -> socket.socket:
        """The socket, for the thread that does the job.

        Raises:
            HandshakeError: the job was cancelled; the socket is closed.
        """
        with self._lock:
            self._has_begun = True
            if self._is_cancelled:
                raise _cancelled()
            return self._socket

    def replace(self, sock: socket.socket) -> None:
        """Make `sock`, which has taken over the descriptor, the one that `cancel` ends.

        Raises:
            HandshakeError: the job was cancelled.
        """
        with self._lock:
            self._socket = sock
            if self._is_cancelled:
                raise _cancelled()


CLOSE_SECONDS = 1.0
"""What cancelled jobs have to end; a thread that takes longer is left behind."""


class Connector:
    """What the tunnels of a runtime share for connecting.

    Args:
        threads: how many connect; also the number of attempts that can be in the part that blocks.

    Attributes:
        names: looks up host names.
        exhaustion: logs that no socket is left.
    """

    def __init__(self, threads: int = 4) -> None:
        self.threads = threads
        self._pool = DaemonThreads(threads, "tunnelfleet-connect")
        self.names = NameLookups()
        self.exhaustion = ExhaustionLog()

    def connect(
        self, request: ConnectRequest, sock: socket.socket
    ) -> tuple[ConnectJob, Future[Connected | ConnectFailed]]:
        """Make a WebSocket of a socket that is connected to `request.peer`.

        Args:
            request: what to ask for.
            sock: belongs to the job from now on.

        Returns:
            The job, to cancel it, and its outcome. Whoever does not take the outcome owes it
            `discard`.
        """
        job = ConnectJob(sock)
        outcome: Future[Connected | ConnectFailed] = Future()
        if not self._pool.submit(functools.partial(self._run, job, request, outcome)):
            sock.close()
            outcome.set_result(ConnectFailed(connect_error("no thread to connect on")))
        return job, outcome

    def _run(
        self, job: ConnectJob, request: ConnectRequest, outcome: Future[Connected | ConnectFailed]
    ) -> None:
        try:
            result: Connected | ConnectFailed = _connect(job, request)
        except TunnelError as error:
            result = ConnectFailed(error)
        except BaseException as error:  # noqa: BLE001 - a surprise is a failed attempt, not a lost thread
            result = ConnectFailed(connect_error("handshake failed", error, request.secrets()))
        if isinstance(result, ConnectFailed) and is_exhausted(result.error):
            self.exhaustion.note(f"connecting to {request.peer}", result.error)
        outcome.set_result(result)

    def close(self) -> None:
        """End the threads. The caller has cancelled the jobs.

        What cannot be interrupted, a look-up for one, is left behind; it never holds up the end.
        """
        self.names.close()
        self._pool.close(CLOSE_SECONDS)


def discard(outcome: Future[Connected | ConnectFailed]) -> None:
    """Close the connection that nobody takes."""
    if not outcome.cancelled():
        result = outcome.result()
        if isinstance(result, Connected):
            result.sock.close()


def connect_error(
    what: str, error: BaseException | None = None, secrets: tuple[str, ...] = ()
) -> HandshakeError:
    """The error of an attempt that failed without an answer, and may be repeated.

    The text of `error` may repeat what the other side sent, and so the `secrets`.
    """
    if error is not None:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            text = _why_not_verified(error)
        what = f"{what}: {Redactor(secrets)(text)}"
    made = HandshakeError(what, status=None, channel_id=None, retryable=True)
    made.__cause__ = error
    return made


_UNVERIFIED = {
    **dict.fromkeys(
        (2, 18, 19, 20, 21, 27),
        "its authority is not trusted here: give the certificate of that authority",
    ),
    **dict.fromkeys(
        (9, 10), "compare this machine's clock with the time; else it has to be renewed"
    ),
    **dict.fromkeys((62, 64), "connect to a name that it is for"),
}
"""What to do, by OpenSSL's codes of verification (X509_V_ERR_...)."""


def _why_not_verified(error: ssl.SSLCertVerificationError) -> str:
    text = f"certificate verify failed: {str(error.verify_message).removesuffix('.')}"
    advice = _UNVERIFIED.get(error.verify_code)
    return f"{text}; {advice}" if advice else text


def _cancelled() -> HandshakeError:
    return connect_error("cancelled")


def _connect(job: ConnectJob, request: ConnectRequest) -> Connected:
    sock = job.begin()
    proxy, endpoint = request.http_proxy, request.endpoint
    try:
        sock.settimeout(request.timeout_seconds)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None:
            text = f"CONNECT through proxy {proxy}"
            sock = _guard(job, "proxy CONNECT", text, lambda: _ask_proxy(job, sock, request))
        if endpoint.is_tls:
            text = f"TLS with {endpoint}"
            sock = _guard(
                job, "TLS handshake", text, lambda: _start_tls(job, sock, request, endpoint)
            )
        text = f"WebSocket handshake with {endpoint}"
        upgraded = _guard(job, "WebSocket handshake", text, lambda: _upgrade(sock, request))
    except BaseException:
        sock.close()
        raise
    return Connected(sock, *upgraded)


def _guard(job: ConnectJob, phase: str, what: str, action: Callable[[], Any]) -> Any:
    job.phase = phase
    try:
        return action()
    except TunnelError:
        raise
    except (OSError, ValueError) as error:
        raise connect_error(what, error) from error


def _ask_proxy(job: ConnectJob, sock: socket.socket, request: ConnectRequest) -> socket.socket:
    proxy = request.http_proxy
    assert proxy is not None
    if proxy.is_tls:
        job.phase = "TLS handshake with the proxy"
        sock = _start_tls(job, sock, request, proxy)
    job.phase = "proxy CONNECT"
    connect_through(sock, request.endpoint, proxy, request.user_agent)
    return sock


def _start_tls(
    job: ConnectJob, sock: socket.socket, request: ConnectRequest, target: Endpoint | HttpProxy
) -> socket.socket:
    context = request.ssl_context
    if context is None:
        raise HandshakeError(
            f"{target} needs TLS and the tunnel has no SSLContext: pass ssl_context",
            status=None,
            channel_id=None,
            retryable=False,
        )
    wrapped: Any = start_tls(context, sock, target.host)
    try:
        job.replace(wrapped)
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped  # type: ignore[no-any-return]


def _upgrade(sock: socket.socket, request: ConnectRequest) -> tuple[str, bytes]:
    """Returns the channel id, and what came of the WebSocket with the answer."""
    headers = request_headers(request.access_token, request.client_token, request.user_agent)
    answer = upgrade(sock, request.endpoint, request.mode, headers)
    if 300 <= answer.status < 400:
        raise HandshakeError(
            f"{request.endpoint} answered with a redirect (HTTP {answer.status}), which is not "
            "followed, for it would carry the access token to a host that nobody named: "
            "give the endpoint of the service itself",
            status=answer.status,
            channel_id=None,
            retryable=True,
        )
    if answer.status != SWITCHING_PROTOCOLS:
        raise handshake_error(
            answer.status,
            answer.body.decode("utf-8", "replace"),
            answer.headers.get(CHANNEL_ID_HEADER),
            secrets=request.secrets(),
        )
    redacted = Redactor(request.secrets())
    channel_id = redacted(answer.headers.get(CHANNEL_ID_HEADER, ""), MAX_ID_CHARACTERS)
    return channel_id, answer.body
