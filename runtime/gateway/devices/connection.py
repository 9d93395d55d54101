"""The connections to the brokers of devices: which there are, what each subscribes to, what came.

Owns the thread of each connection and the pace of subscriptions, a few filters at a time. Things
are dealt to the connections of a broker, as each has a limit of them. `session` speaks MQTT.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from paho.mqtt.client import MQTTMessage

from tunnelfleet.actors.kernel import Backoff, BackoffState
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError, printable
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings
from tunnelfleet.runtime.mqtt import Wake

from .notification import (
    Arrived,
    BadNotification,
    ConnectionChanged,
    SubscriptionRefused,
    parse_notification,
    thing_of,
    topic_of,
)
from .session import Granted, MqttSession, SessionEnded, Version

MAX_FILTERS: Final = 8
"""Topic filters in one SUBSCRIBE or UNSUBSCRIBE."""


class ThingDeal:
    """The things of one broker, dealt to numbered connections.

    Args:
        limit: things a connection has at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[int, dict[str, None]] = {}
        self._of: dict[str, int] = {}

    def change(self, things: Iterable[str]) -> None:
        """These are the things from now on; those that stay keep their connection."""
        wanted = dict.fromkeys(things)
        for thing in [each for each in self._of if each not in wanted]:
            number = self._of.pop(thing)
            del self._connections[number][thing]
            if not self._connections[number]:
                del self._connections[number]
        number = 1
        for thing in [each for each in wanted if each not in self._of]:
            while len(self._connections.get(number, ())) >= self._limit:
                number += 1
            self._connections.setdefault(number, {})[thing] = None
            self._of[thing] = number

    @property
    def connections(self) -> dict[int, tuple[str, ...]]:
        """The things of each connection by its number, which is 1 for the first."""
        return {number: tuple(self._connections[number]) for number in sorted(self._connections)}


def batches(topics: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The topics in lots of one SUBSCRIBE."""
    left = iter(topics)
    while lot := tuple(itertools.islice(left, MAX_FILTERS)):
        yield lot


RECONNECT: Final = Backoff(min_seconds=1.0, max_seconds=60.0)
MIN_RECONNECT_SECONDS: Final = 1.0
TURN_SECONDS: Final = 1.0
MAX_IN_HAND: Final = 64
"""Messages that the owner has been told and has not dealt with; until then no more are read."""
RETRY_REFUSED_SECONDS: Final = 60.0
"""After which a subscription that the broker has refused is asked for again."""
MAX_STRAY: Final = 1_000
MAX_REASON: Final = 200

_log = get_logger(__name__)


class BrokerConnection:
    """A connection.

    Args:
        settings: of the broker.
        number: of the connection at this broker, 1 for the first.
        tell: is told `Arrived`, `ConnectionChanged` and `SubscriptionRefused`, on the thread.
        backoff: between two attempts.
        min_seconds: at least so long between two attempts.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        number: int,
        tell: Callable[[object], object],
        *,
        backoff: Backoff = RECONNECT,
        min_seconds: float = MIN_RECONNECT_SECONDS,
    ) -> None:
        self.settings = settings
        self.number = number
        self.client_id = settings.client_id if number == 1 else f"{settings.client_id}-{number}"
        self.is_up = False
        """Whether the broker is there."""
        self.reason = "it is about to connect"
        """Why it is not; empty if it is."""
        self.subscribed = 0
        """Things that the broker has granted."""
        self._tell = tell
        self._min_seconds = min_seconds
        self._backoff = BackoffState(backoff)
        self._rng = random.Random()  # noqa: S311 - spreads attempts
        self._wake: Wake | None = None
        """Ends a wait of the thread early, while it runs."""
        self._wanted: tuple[str, ...] = ()
        self._done: deque[tuple[int, int, int]] = deque()
        self._ending = threading.Event()
        self._forget = False
        self._epoch = 0
        self._version = Version.V5
        self._begin_anew = False
        self._in_hand = 0
        self._asked: dict[str, None] = {}
        """Topics of this session that are subscribed."""
        self._refused: dict[str, float] = {}
        """Topics that the broker has refused, and when to ask again."""
        self._stray: dict[str, None] = {}
        """Topics that arrive and are not wanted here: of an earlier life of the session."""
        name = f"tunnelfleet-mqtt-{number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # -- from any thread

    def start(self) -> None:
        """Connect, and again for ever."""
        self._wake = Wake()
        self._thread.start()

    def want(self, things: Iterable[str]) -> None:
        """These are the things to ask for from now on."""
        self._wanted = tuple(topic_of(each) for each in things)
        self._call()

    def done(self, arrived: Arrived) -> None:
        """A message was dealt with, and need not be told again."""
        self._done.append((arrived.epoch, arrived.mid, arrived.qos))
        self._call()

    def end(self, *, forget: bool = False) -> None:
        """Begin to end; does not wait.

        Args:
            forget: whether the broker is to forget the session: what is published from now on is
                for nobody. Otherwise it keeps it until the next start.
        """
        self._forget = forget
        self._ending.set()
        self._call()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end of the thread; return whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _call(self) -> None:
        if self._wake is not None:
            self._wake.call()

    # -- on the thread

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                began = time.monotonic()
                reason = self._live()
                up_seconds = time.monotonic() - began if self.is_up else 0.0
                self._lost(reason, up_seconds)
        finally:
            assert self._wake is not None
            self._wake.close()

    def _lost(self, reason: str, up_seconds: float) -> None:
        self.is_up, self.subscribed = False, 0
        if self._ending.is_set():
            return
        self.reason = reason
        self._tell(ConnectionChanged(self, False, 0, reason))
        self._backoff.record_failure(up_seconds)
        self._ending.wait(self._min_seconds + self._backoff.next_delay(self._rng))

    def _live(self) -> str:
        """One session; returns why it is over."""
        assert self._wake is not None
        self._epoch += 1
        self._in_hand = 0
        self._done.clear()
        self._asked.clear()
        self._stray.clear()
        session = MqttSession(
            self.settings,
            self.client_id,
            self._version,
            begin_anew=self._begin_anew,
            on_message=self._on_message,
            wake=self._wake,
        )
        try:
            session.connect()
            self._begin_anew = False
            while not self._ending.is_set():
                self._turn(session)
            session.leave(forget=self._forget)
        except SessionEnded as error:
            if error.is_version and self._version is Version.V5:
                self._version = Version.V311
            return str(error)
        except (ConfigError, OSError, ValueError) as error:
            return _words(error)
        except Exception:  # noqa: BLE001 - whatever it is, other brokers go on
            # A mistake of ours or of the library: the connection is made anew.
            _log.exception("the connection to the broker %s failed", self.settings)
            return "an error in this program"
        finally:
            session.close()
        return ""

    def _turn(self, session: MqttSession) -> None:
        answer = session.turn(TURN_SECONDS, may_read=self._in_hand < MAX_IN_HAND)
        if not session.is_open:
            return
        if not self.is_up:
            self.is_up, self.reason = True, ""
            self._tell(ConnectionChanged(self, True, 0, ""))
        if answer is not None:
            self._answered(session, answer)
        self._acknowledge(session)
        if not session.is_asking:
            self._ask(session)

    def _acknowledge(self, session: MqttSession) -> None:
        while self._done:
            epoch, mid, qos = self._done.popleft()
            if epoch == self._epoch:
                self._in_hand -= 1
                if qos:
                    session.acknowledge(mid, qos)

    def _ask(self, session: MqttSession) -> None:
        """Ask for one lot more of what is wanted, or give up one of what is not."""
        wanted = dict.fromkeys(self._wanted)
        gone = [topic for topic in (*self._asked, *self._stray) if topic not in wanted]
        for lot in batches(gone):
            session.ask(lot, subscribe=False)
            return
        now = time.monotonic()
        missing = (
            topic
            for topic in wanted
            if topic not in self._asked and self._refused.get(topic, 0.0) <= now
        )
        for lot in batches(missing):
            session.ask(lot, subscribe=True)
            return

    def _answered(self, session: MqttSession, answer: Granted) -> None:
        for topic in answer.topics:
            self._stray.pop(topic, None)
            if not answer.is_subscribe:
                self._asked.pop(topic, None)
            elif topic not in answer.refused:
                self._asked[topic] = None
                self._refused.pop(topic, None)
        if answer.refused:
            self._subscriptions_refused(session, answer)
        wanted = set(self._wanted)
        self.subscribed = len(self._asked.keys() & wanted)
        if self.subscribed + len(self._refused.keys() & wanted) >= len(wanted):
            self._tell(ConnectionChanged(self, True, self.subscribed, ""))

    def _subscriptions_refused(self, session: MqttSession, answer: Granted) -> None:
        if session.was_kept:
            # An earlier life of the session may have things that are with another connection now,
            # and with them it has more than the broker allows: it is begun anew.
            self._begin_anew = True
            raise SessionEnded("the broker grants no more subscriptions; the session begins anew")
        again = time.monotonic() + RETRY_REFUSED_SECONDS
        self._refused |= dict.fromkeys(answer.refused, again)
        things = tuple(thing_of(topic) or "" for topic in answer.refused)
        self._tell(SubscriptionRefused(self, things, next(iter(answer.refused.values()))))

    def _on_message(self, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        thing = thing_of(topic)
        if thing is not None and topic not in self._asked and len(self._stray) < MAX_STRAY:
            self._stray[topic] = None
        notification, problem = None, "its topic is of no thing"
        if thing is not None:
            try:
                notification, problem = parse_notification(thing, bytes(message.payload)), ""
            except BadNotification as error:
                problem = str(error)
        self._in_hand += 1
        shown = printable(thing or topic, MAX_REASON)
        self._tell(
            Arrived(self, self._epoch, message.mid, message.qos, shown, notification, problem)
        )


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(f"it cannot be reached: {text}", MAX_REASON)
