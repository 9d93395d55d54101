"""VisitorActor: one client of a front door, from its connect until a tunnel has its socket.

Owns the client's socket and the order of the steps. What is said is in `handshake`, where it leads
in `fleet_view` and `search`. A client that fails, hangs or sends garbage is this actor's affair
alone.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorDeadError, ActorRef

from tunnelfleet.actors.kernel import DispatchedActor, ExitReason, Terminated, Timer
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.net.socket_io import (
    abort_quietly,
    close_socket,
    discard_some,
    reset_connection,
)
from tunnelfleet.actors.tunnel.messages import HandOver, HandOverLost
from tunnelfleet.proto import (
    NotConnected,
    TooManyConnections,
    TunnelClosed,
    TunnelError,
    counted,
    printable,
)
from tunnelfleet.runtime import TunnelStateChanged

from .first_byte import begin_handshake
from .fleet_view import Away, Entrance, NotYet, Unlisted, Unopened
from .hall import GiveWay
from .handshake import Denial, LoginGiven, Malformed, TargetNamed
from .identity import UnixPeer
from .names import DoorRefused
from .search import Found, GatewayAnswered, NameFound, ResolverAnswered, Search, Sought

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.kernel import DispatchedFuture
    from tunnelfleet.runtime.gateway.config.door_users import DoorUsers

    from .hall import CountedSocket, Hall
    from .handshake import Handshake


logger = logging.getLogger(__name__)


class _Late(NamedTuple):
    """The time of its phase is over."""


class _TryAgain(NamedTuple):
    """The tunnel may be connected by now."""


class _UserKnown(NamedTuple):
    uid: int
    name: str


class _LoginChecked(NamedTuple):
    users: DoorUsers
    login: LoginGiven
    is_good: bool


class Guest(NamedTuple):
    """A client of another gateway, which has seen who it is.

    Attributes:
        handshake: has its target; what it says goes to that gateway.
        user: who the client is, as that gateway says.
        peer: where it is, and by which gateway.
    """

    handshake: Handshake
    user: str
    peer: str


class _Answered(NamedTuple):
    """The tunnel has said whether it takes the socket: the error if it does not."""

    error: BaseException | None


class _VisitorStage(Enum):
    WHO = auto()
    """At a Unix socket: which user of this machine is it."""
    TALKING = auto()
    """The handshake; its bytes are looked at, and only what is the handshake's is read."""
    LOGIN = auto()
    """A password is being checked."""
    FINDING = auto()
    """It has said where it wants to go, and waits until the tunnel is connected."""
    SEEKING = auto()
    """This gateway does not run the tunnel, and somebody was asked for it: see `Search`."""
    LENT = auto()
    """The tunnel is asked to take the socket, and may have it already."""
    LEAVING = auto()
    """It was refused; it has a moment to read why."""


_TALKS = frozenset({_VisitorStage.WHO, _VisitorStage.TALKING, _VisitorStage.LOGIN})
"""It has not said where it wants to go."""


PEEK_BYTES = 16_384
"""More than a handshake has."""
DISCARD_BYTES = 65_536
"""Of a client that was refused and goes on sending, in one turn."""
LOOK_AGAIN_SECONDS = 1.0
"""While it waits for a tunnel, it looks at least so often, whatever it was told."""


class VisitorActor(DispatchedActor):
    """One client.

    Args:
        sock: its socket, non-blocking.
        peer: where it is, for people; empty for a Unix socket, whose kernel knows.
        door: the actor that has accepted it: when that ends, so does this.
        hall: what all clients share.
        guest: what is known of it already, if another gateway has forwarded it.
    """

    def __init__(
        self,
        sock: CountedSocket,
        peer: str,
        door: ActorRef[Any],
        hall: Hall,
        guest: Guest | None = None,
    ) -> None:
        super().__init__()
        self._sock: CountedSocket | None = sock
        self._peer = peer
        self._door = door
        self._hall = hall
        self._guest = guest
        self._user = ""
        self._stage = _VisitorStage.WHO
        self._handshake: Handshake | None = None
        self._users: DoorUsers | None = None
        """Those whose password is asked for; None if nobody's is."""
        self._target: TargetNamed | None = None
        self._grace: NotYet | None = None
        """What it waits for if the tunnel that it was lent to does not take it."""
        self._wait_until: float | None = None
        self._local: tuple[str, str] | None = None
        """The tunnel that was found or opened for it, and the service."""
        self._search = Search(self, self, hall)
        self._timer: Timer | None = None
        self._abort = True

    @property
    def _open_socket(self) -> CountedSocket:
        assert self._sock is not None
        return self._sock

    # -- who

    def on_start(self) -> None:
        """Find out who it is, or let it speak."""
        self.watch(self._door)
        self._set_timer(self._hall.limits.handshake_seconds, _Late())
        if self._guest is not None:
            self._handshake, self._user, self._peer = self._guest
            self._go_on()
            return
        if self._open_socket.family != socket.AF_UNIX:
            self._users = self._hall.users()
            self._talk()
            return
        try:
            peer = UnixPeer.of(self._open_socket)
        except OSError as error:
            logger.warning("a client of a front door has no credentials: %s", error)
            self.exit()
            return
        self._peer = f"pid={peer.pid}"
        name = self._hall.identity.user_of(peer.uid)
        if isinstance(name, str):
            self._on_user_known(_UserKnown(peer.uid, name))
        else:
            self.pipe_to_self(name, lambda done: _UserKnown(peer.uid, done.result()))

    def _on_user_known(self, message: _UserKnown) -> None:
        self._hall.identity.remember_user(message.uid, message.name)
        self._user = message.name
        self._talk()

    # -- the handshake

    def _talk(self) -> None:
        self._stage = _VisitorStage.TALKING
        self.add_reader(self._open_socket, self._on_readable)

    def _on_readable(self) -> None:
        if self._stage is _VisitorStage.LEAVING:
            self._discard()
            return
        sock = self._open_socket
        try:
            data = sock.recv(PEEK_BYTES, socket.MSG_PEEK)
            if data:
                if self._handshake is None:
                    needs_login = self._users is not None
                    self._handshake = begin_handshake(data[0], needs_login=needs_login)
                # Not a byte of the application's: the tunnel reads those.
                sock.recv(self._handshake.receive(data))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hall.counters.left += 1
            self.exit()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Do what the handshake says is next; it reads on if that is nothing."""
        assert self._handshake is not None
        if not self._send(self._handshake.take_output()):
            return
        match self._handshake.next_event():
            case LoginGiven() as login:
                self._on_login(login)
            case TargetNamed() as target:
                self._on_target(target)
            case Malformed(refusal, text):
                self.refuse(refusal, text)

    def _send(self, data: bytes) -> bool:
        """Send what is small; a client that does not take it is gone."""
        if not data:
            return True
        try:
            sent = self._open_socket.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            self._hall.counters.left += 1
            self.exit()
        return sent == len(data)

    def _on_login(self, login: LoginGiven) -> None:
        assert self._users is not None
        users = self._users
        checked = self._hall.identity.check(users, login.user, login.password)
        if checked is None:
            self.refuse(Denial.BUSY, "too many logins at once: try again in a moment")
        elif isinstance(checked, bool):
            self._on_good_login(login.user)
        else:
            self._stage = _VisitorStage.LOGIN
            self.remove_reader(self._open_socket)
            self.pipe_to_self(checked, lambda done: _LoginChecked(users, login, done.result()))

    def _on_login_checked(self, message: _LoginChecked) -> None:
        users, login, is_good = message
        assert self._handshake is not None
        self._talk()
        if is_good:
            self._hall.identity.remember_login(users, login.user, login.password)
            self._on_good_login(login.user)
        else:
            self._user = login.user
            self._handshake.login_checked(False)
            self._go_on()

    def _on_good_login(self, user: str) -> None:
        assert self._handshake is not None
        self._user = user
        self._handshake.login_checked(True)
        self._go_on()

    # -- the tunnel

    def _on_target(self, target: TargetNamed) -> None:
        self._target = target
        self._stage = _VisitorStage.FINDING
        sought = Sought(target.name, self._user, self._peer, self._guest is not None)
        self._search.begin(sought)
        self.remove_reader(self._open_socket)
        self._hall.crowd.named(self.actor_ref)
        limits, counters = self._hall.limits, self._hall.counters
        if counters.open - self._hall.crowd.yielding > limits.max_connections:
            open_now = counted(limits.max_connections, "connection", "is open", "are open")
            text = f"{open_now} through this gateway's doors, which is the limit"
            self.refuse(Denial.BUSY, text)
        else:
            self._find()

    def _find(self) -> None:
        assert self._target is not None
        view = self._hall.view
        try:
            if self._local is None:
                found = view.enter(*self._target, self._user)
            else:
                found = view.enter_tunnel(*self._local)
        except DoorRefused as error:
            self.refuse(error.refusal, error.text)
            return
        match found:
            case Unopened():
                self._local = None
                self._search.open(found)
            case NotYet():
                self.wait(found)
            case Entrance(tunnel, service_id):
                config = tunnel.config
                grace_seconds = config.limits.offline_grace_seconds
                grace = NotYet(config.name, grace_seconds, "has lost its connection")
                self.lend(tunnel.hand_over, service_id, grace)
            case Away():
                self._search.go_away(found)
            case Unlisted():
                self._search.look_up(found)

    def wait(self, found: NotYet) -> None:
        """Look again when something may have changed, as long as the tunnel's grace lasts."""
        now = time.monotonic()
        if self._wait_until is None:
            if not self._hall.crowd.wait(self.actor_ref):
                text = f"too many clients wait for tunnels, and {found.tunnel} {found.reason}"
                self.refuse(Denial.BUSY, text)
                return
            self._wait_until = now + found.grace_seconds
            self._hall.subscribe(self.actor_ref, found.tunnel)
        left_seconds = self._wait_until - now
        if left_seconds <= 0:
            text = f"tunnel {printable(found.tunnel)} {found.reason}"
            self.refuse(Denial.UNAVAILABLE, f"{text}; nothing changed within the time to wait")
        else:
            self._set_timer(min(left_seconds, LOOK_AGAIN_SECONDS), _TryAgain())

    def _on_look_again(self, _message: _TryAgain | TunnelStateChanged) -> None:
        if self._stage is _VisitorStage.FINDING:
            self._find()
        elif self._stage is _VisitorStage.SEEKING:
            self._go_on_seeking()

    # -- a tunnel that is not here; see `Seeker`

    def begin_seeking(self) -> None:
        """Somebody was asked for the tunnel."""
        self._stage = _VisitorStage.SEEKING
        self._set_timer(LOOK_AGAIN_SECONDS, _TryAgain())

    def _on_sought(self, message: Found) -> None:
        if self._stage is _VisitorStage.SEEKING and self._search.expects(message):
            self._stage = _VisitorStage.FINDING
            self._search.take(message)

    def _go_on_seeking(self) -> None:
        if _has_left(self._open_socket):
            self._hall.counters.left += 1
            self.exit()
        elif self._search.is_late():
            self.refuse(Denial.UNAVAILABLE, "nobody has answered for this name; try again")
        else:
            self._set_timer(LOOK_AGAIN_SECONDS, _TryAgain())

    def enter(self, tunnel: str, service_id: str) -> None:
        """It was opened, and has its own time to connect."""
        self._local = (tunnel, service_id)
        self._wait_until = None
        self._find()

    # -- the tunnel takes the socket

    def lend(
        self, hand_over: Callable[[HandOver], DispatchedFuture[Any]], service_id: str, grace: NotYet
    ) -> None:
        """Hand the socket over; if it is not taken, wait for `grace`."""
        assert self._handshake is not None
        self._grace = grace
        self._stage = _VisitorStage.LENT
        message = HandOver(
            service_id,
            self._open_socket,
            self._handshake.welcome(),
            self._peer,
            self._user,
        )
        try:
            answer = hand_over(message)
        except TunnelClosed:
            self._on_answered(_Answered(NotConnected()))
            return
        self._set_timer(self._hall.limits.answer_seconds, _Late())
        sock = self._open_socket
        self.pipe_to_self(
            answer, lambda done: _Answered(_error_of(done)), discard=lambda done: _drop(sock, done)
        )

    def _on_answered(self, message: _Answered) -> None:
        error = message.error
        if error is None:
            assert self._handshake is not None
            self._hall.counters.handed_over[self._handshake.protocol] += 1
            self._sock = None
            self.exit()
            return
        self._stage = _VisitorStage.FINDING
        if isinstance(error, HandOverLost):
            self.exit()
        elif isinstance(error, NotConnected | ActorDeadError):
            # It was connected a moment ago.
            assert self._grace is not None
            self.wait(self._grace)
        elif isinstance(error, TooManyConnections | TunnelClosed):
            self.refuse(Denial.UNAVAILABLE, str(error))
        elif isinstance(error, TunnelError):
            self.refuse(Denial.FAILED, str(error))
        else:
            logger.error("a tunnel failed when a front door handed a socket over: %r", error)
            self.refuse(Denial.FAILED, "the tunnel failed, which the gateway's log tells more of")

    # -- ends

    def refuse(self, denial: Denial, text: str) -> None:
        """Say why not, and give the client a moment to read it before the socket is closed."""
        target = None if self._target is None else self._target.name
        self._hall.denied(denial, text, peer=self._peer, user=self._user, target=target)
        answer = b"" if self._handshake is None else self._handshake.refuse(denial, text)
        self._stage = _VisitorStage.LEAVING
        self._hall.make_room(self.actor_ref)
        if not self._send(answer):
            return
        # A socket that is closed with unread bytes resets, and the answer is lost.
        self._abort = False
        with contextlib.suppress(OSError):
            self._open_socket.shutdown(socket.SHUT_WR)
        self._set_timer(self._hall.limits.linger_seconds, _Late())
        self.add_reader(self._open_socket, self._on_readable)

    def _discard(self) -> None:
        if discard_some(self._open_socket, DISCARD_BYTES):
            self.exit()

    def _set_timer(self, delay_seconds: float, message: Any) -> None:
        """Have this message come, in place of the one that was to come."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.schedule(delay_seconds, message)

    def _on_give_way(self, _message: GiveWay) -> None:
        if self._stage in _TALKS or self._stage is _VisitorStage.LEAVING:
            self._on_late(_Late())
        # Else it has said where it wants to go while this was on its way.

    def _on_late(self, _message: _Late) -> None:
        if self._stage in _TALKS:
            self._hall.counters.left += 1
        elif self._stage is _VisitorStage.LENT:
            # The tunnel does not answer, and may have it all the same: it is not ours to close. It
            # may have greeted the client, or read what it said, and for neither this is an end.
            reset_connection(self._open_socket)
        self.exit()

    def _on_terminated(self, _message: Terminated) -> None:
        if self._stage is not _VisitorStage.LENT:
            # Else the tunnel is about to say whose the socket is.
            self.exit()

    def _on_end(self, reason: ExitReason) -> None:
        """Close the socket, however the actor ended, unless a tunnel may have it."""
        super()._on_end(reason)
        self._hall.crowd.leave(self.actor_ref)
        sock, self._sock = self._sock, None
        if sock is None or self._stage is _VisitorStage.LENT:
            # It may be the tunnel's by now, and is closed by whoever has it: see `_drop`.
            return
        if self._abort:
            abort_quietly(sock)
        else:
            close_socket(sock)

    HANDLERS: ClassVar[Handlers] = {
        _UserKnown: _on_user_known,
        _LoginChecked: _on_login_checked,
        TunnelStateChanged: _on_look_again,
        _TryAgain: _on_look_again,
        ResolverAnswered: _on_sought,
        NameFound: _on_sought,
        GatewayAnswered: _on_sought,
        _Answered: _on_answered,
        _Late: _on_late,
        GiveWay: _on_give_way,
        Terminated: _on_terminated,
    }


def _error_of(answer: Any) -> BaseException | None:
    try:
        answer.get()
    except Exception as error:  # noqa: BLE001 - whatever it is, the socket was not taken
        return error
    return None


def _has_left(sock: socket.socket) -> bool:
    """Whether a client that waits has closed, as far as its kernel has told ours.

    It may have sent bytes for the application already, so that it cannot be read to find out.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _drop(sock: CountedSocket, answer: Any) -> None:
    """Nobody waits for the answer any more: if the tunnel has not taken the socket, close it."""
    if _error_of(answer) is not None:
        abort_quietly(sock)
