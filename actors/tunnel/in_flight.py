"""What may be in flight: handed over to the link, and not parsed by the service as far as we know.

The queue that we cannot see is behind our kernel: in the service's receive buffer, in front of its
throttle. A ping has a place in the stream of bytes, so its pong says that all before it was parsed,
and when. From pongs follow the rate of the link and how long bytes stand in that queue, and from
these how much may be in flight: what the link carries in its own delay and a target delay.
docs/architecture.md section 6.

Pure: the time is an argument. It owns no queue, timer, frame or socket, and it never waits for
ever: a service that answers no ping is not limited.
"""

from __future__ import annotations

from enum import Enum, auto
from sys import maxsize
from typing import Final, NamedTuple

from .pacing import LastPongs, Pong, WayMeter

FIRST_WINDOW_BYTES: Final = 16_384
"""In flight on a link of which nothing is known; it doubles with each round trip."""
SHORTEST_SAMPLE_SECONDS: Final = 0.2
BOOST_ROUND_TRIPS: Final = 3.0
MOST_BOOST: Final = 0.5
FIRST_BOOST: Final = 0.05
"""By this part a rate is doubted, once a round trip, when there is no queue; then by twice that."""
FIRST_ANSWER_SECONDS: Final = 0.5
"""A service that has never answered a ping has so long; then the window grows, and grows again."""


class FlightPhase(Enum):
    """What is known of the link."""

    OFF = auto()
    """Nothing is limited, and no ping is sent."""
    STARTING = auto()
    """No queue was seen: the window grows while it is what holds the tunnel back."""
    LIMITED = auto()
    """There was a queue, so the rate of the link is known."""
    DRAINING = auto()
    """Hardly anything is sent until what is ours has left the queue, to see what is there still."""
    SILENT = auto()
    """Pings are not answered: nothing is limited until a pong comes."""


class Standing(NamedTuple):
    """What a pong told.

    Attributes:
        delay_seconds: how long bytes stand in the queue in front of the service's throttle.
        waited_seconds: how long the tunnel had something to send and waited for this.
    """

    delay_seconds: float
    waited_seconds: float


class _Ping(NamedTuple):
    number: int
    position: int
    sent_at: float
    is_busy: bool
    was_empty: bool
    """All that was handed over before it had been confirmed."""


class _Doubt(NamedTuple):
    """A queue was found, and it is not known yet whether it is ours.

    Attributes:
        seconds: how long bytes stand in it.
        window_bytes: what was in flight until then, on a link without a limit; 0 on one with.
    """

    seconds: float
    window_bytes: int


QUIET_WINDOW_BYTES: Final = 65_536
"""What a tunnel that never had much to send may have in flight as well."""
MIN_WINDOW_BYTES: Final = 2_048
"""However slow a link is, so much may be in flight."""
PINGS_PER_WINDOW: Final = 3
PIECES_PER_WINDOW: Final = 8
OPEN_SECONDS: Final = 0.4
"""Without a queue the window is a multiple of what a target needs: fewer pings do."""
DOUBT_SECONDS: Final = 1.0
MOST_DOUBT_SECONDS: Final = 32.0
"""So often, at most, it is asked whose a queue is; half as often each time that it is others'."""
MOST_LOWERED: Final = 8
"""A rate that comes down to such a part of what it was, with a queue all the time, is not the
link's. That of a service that parses in bursts goes up and down by less.
"""
CALM_SECONDS: Final = 5.0
"""A moment without a queue says that the rate was the link's, if none was found for so long."""
FIRST_TRUCE_SECONDS: Final = 20.0
"""So long no queue is looked for then, and twice as long each time, up to this:"""
MOST_TRUCE_SECONDS: Final = 320.0
HOPE_SECONDS: Final = 2.0
"""So long more in flight has time to show that it carries more; then:"""
HOPELESS_SECONDS: Final = 1.0
"""Bytes that stand for longer end that, unless the rate has doubled: the link is slow."""
OPEN_WINDOW_BYTES: Final = 262_144
"""What may be in flight where a queue is others'; more where there is none."""
SUSPICION_SECONDS: Final = 0.5
"""A queue has to stand for so long, while the tunnel always has more to send.

What is gone before was a pause of somebody's: of the service, or of our own process.
"""
CALM_PONGS: Final = 16
"""So many without a queue end a suspicion: a service that parses in bursts answers some at once."""
QUIET_SECONDS: Final = 0.02
"""After so long without a byte and a ping on the way, a new measurement begins."""
ANSWER_SECONDS: Final = 2.0
"""One that has answered before has so long, and then longer: its queue may have become slow."""
IMPATIENCE: Final = 4
"""By this factor the window of a service that never answered grows, and so often; see above."""
PATIENCE: Final = 3
"""So often one that has answered before is waited for."""
UNLIMITED: Final = maxsize


class InFlight:
    """The bytes of one link between us and the service's parser.

    `position` is everywhere how many bytes were handed over to the link so far; whoever does that
    counts them.

    Args:
        target_seconds: how long bytes may stand in the service's queue; None limits nothing.
        does_answer: what is known from the link before: False if its service answered no ping.
        stagger: 0 to 1, another one for each tunnel: they must not all look for a queue in the same
            moment, as there is none while they do.

    Attributes:
        phase: what is known of the link.
        window_bytes: how much may be in flight.
        bytes_per_second: the rate of the link; None while no queue has shown it.
        does_answer: whether pings are answered; None while that is not known.
        pings: those whose answers are still to come.
        quiet_until: below this position nothing has to be asked here: there is room, and no ping
            is due.
        suspected_since: since when pongs have told of a queue, on a link without a limit.
    """

    __slots__ = (
        "_blocked_since",
        "_boost",
        "_boosted_at",
        "_calm_pongs",
        "_confirmed",
        "_doubt",
        "_doubt_seconds",
        "_doubted_at",
        "_emptied",
        "_hoped",
        "_hopes_until",
        "_is_held",
        "_lowered_from",
        "_may_doubt_at",
        "_must_ping",
        "_number",
        "_pinged",
        "_proven",
        "_sample",
        "_stagger",
        "_target",
        "_truce_seconds",
        "_unanswered",
        "_waits_since",
        "_way",
        "bytes_per_second",
        "does_answer",
        "phase",
        "pings",
        "quiet_until",
        "suspected_since",
        "window_bytes",
    )

    def __init__(
        self,
        target_seconds: float | None,
        *,
        does_answer: bool | None = None,
        stagger: float = 0.0,
    ) -> None:
        self._target = target_seconds or 0.0
        self.does_answer = does_answer
        self.phase = FlightPhase.STARTING
        self.window_bytes = FIRST_WINDOW_BYTES
        self.bytes_per_second: float | None = None
        self._must_ping = True
        self.quiet_until = 0
        self._confirmed = self._pinged = 0
        self._number = 0
        self.pings: list[_Ping] = []
        self._sample = LastPongs()
        self._way = WayMeter(self._target)
        self._blocked_since: float | None = None
        self.suspected_since: float | None = None
        self._calm_pongs = 0
        self._waits_since = 0.0
        self._doubt: _Doubt | None = None
        self._lowered_from = 0.0
        self._truce_seconds = FIRST_TRUCE_SECONDS
        self._hopes_until = 0.0
        self._hoped = 0.0
        """The rate that more in flight has to reach where pacing was given up."""
        self._emptied = 0
        """Behind so many bytes a ping was answered that went out when all was confirmed."""
        self._proven = 0.0
        """The rate of a queue that was ours."""
        self._doubted_at = 0.0
        self._doubt_seconds = DOUBT_SECONDS
        self._stagger = stagger
        self._may_doubt_at = 0.0
        self._is_held = False
        self._unanswered = 0
        self._boost = FIRST_BOOST
        self._boosted_at = 0.0
        if target_seconds is None:
            self._stop(FlightPhase.OFF)
        elif does_answer is False:
            self._stop(FlightPhase.SILENT)

    # -- towards the link

    def has_room(self, position: int) -> bool:
        """Whether more may be handed over now."""
        return position - self._confirmed < self.window_bytes

    def room_bytes(self, position: int) -> int:
        """How much more may be handed over now."""
        return self.window_bytes - (position - self._confirmed)

    @property
    def payload_bytes(self) -> int:
        """The largest DATA payload, about: a window holds several."""
        return (
            self.window_bytes // PIECES_PER_WINDOW
            if self.phase is FlightPhase.STARTING
            else UNLIMITED
        )

    def is_ping_due(self, position: int, *, is_busy: bool) -> bool:
        """Whether a ping should be sent now, behind all that was handed over.

        Args:
            position: see above.
            is_busy: whether the tunnel has more to send; without, few pings do.
        """
        if self._must_ping:
            return True
        if self._is_held or self.window_bytes == UNLIMITED:
            return False
        return position - self._pinged >= self._spacing_bytes(is_busy=is_busy)

    def _spacing_bytes(self, *, is_busy: bool) -> int:
        if self.phase is FlightPhase.DRAINING:
            return 1
        if not is_busy:
            return self.window_bytes // 2
        if self.bytes_per_second is not None:
            spacing = int(self.bytes_per_second * self._target / 2)
            return max(min(spacing, self.window_bytes // 2), 1)
        return self.window_bytes // PINGS_PER_WINDOW

    def ping(
        self, position: int, now: float, *, is_busy: bool, burst: tuple[float, int] = (0.0, 0)
    ) -> int:
        """A ping is sent behind all that was handed over; return its number.

        Args:
            position: see above.
            now: monotonic seconds.
            is_busy: as for `is_ping_due`: only then does the answer tell of the link's rate.
            burst: when, and at which position, something was sent for the first time after
                `QUIET_SECONDS` without a byte and without a ping on its way.
        """
        began_at, began_position = burst
        if began_at > self._sample.began_at:
            # What was measured before the silence says nothing of how fast this is, and a queue of
            # ours has gone.
            self._sample.begin(began_at + self._way.seconds, began_position)
            self.suspected_since = None
        self._must_ping = False
        self._number += 1
        was_empty = position == self._confirmed
        self.pings.append(_Ping(self._number, position, now, is_busy, was_empty))
        self._pinged = position
        self._changed()
        return self._number

    def _changed(self) -> None:
        """Know anew until where nothing has to be looked at."""
        if self._must_ping:
            self.quiet_until = 0
        elif self.window_bytes == UNLIMITED or self._is_held:
            self.quiet_until = UNLIMITED
        else:
            window = self.window_bytes
            self.quiet_until = min(self._pinged + window // 2, self._confirmed + window)

    def pong(self, number: int, position: int, now: float) -> Standing | None:
        """The answer to a ping came: it answers those before it too.

        Returns:
            What it told; None if it answers none that is waited for.
        """
        pings = self.pings
        if not pings or not pings[0].number <= number <= pings[-1].number:
            return None
        answered = number - pings[0].number
        ping = pings[answered]
        del pings[: answered + 1]
        if self.phase is FlightPhase.SILENT or (self._unanswered and not self.does_answer):
            # It does answer: what impatience has made of the window is not to stay.
            self._start()
        self.does_answer, self._unanswered, self._waits_since = True, 0, now
        gained = max(ping.position - self._confirmed, 0)
        self._confirmed += gained
        seconds = now - ping.sent_at
        if ping.was_empty:
            self._was_empty(ping.position, seconds, now)
        delay = self._way.delay(seconds)
        if not ping.is_busy:
            # There may have been a pause behind it.
            self._sample.begin(now, ping.position)
        else:
            self._sample.add(Pong(now, ping.position, delay))
        if self.phase is FlightPhase.DRAINING:
            self._drain(position, now)
        elif ping.is_busy:
            self._judge(gained, position, now)
        elif self.phase is FlightPhase.STARTING and delay < self._target / 2:
            wanted = min(self.window_bytes + gained, QUIET_WINDOW_BYTES)
            self.window_bytes = max(self.window_bytes, wanted)
        self._changed()
        return Standing(delay, self._unblocked(position, now))

    def _unblocked(self, position: int, now: float) -> float:
        if self._blocked_since is None or not self.has_room(position):
            return 0.0
        waited, self._blocked_since = now - self._blocked_since, None
        return waited

    def wait_seconds(self, position: int, now: float) -> float:
        """The caller has something to send and there is no room: after how long to ask again.

        Returns:
            The seconds, if no pong comes before; 0 if there is room now.
        """
        if self._blocked_since is None:
            self._blocked_since = self._waits_since = now
        since = self._waits_since
        if self.pings:
            since = max(since, self.pings[0].sent_at)
        patience = FIRST_ANSWER_SECONDS
        if self.does_answer:
            patience = ANSWER_SECONDS * 2**self._unanswered
        if now < since + patience:
            return since + patience - now
        self._lose_patience(position)
        self._changed()
        self._blocked_since = None
        return 0.0

    def hold(self, position: int, now: float, *, is_held: bool) -> None:
        """The link is not read, or again: held, no pong is heard of it, and nothing is limited."""
        if self.phase in (FlightPhase.OFF, FlightPhase.SILENT) or is_held is self._is_held:
            return
        self._is_held = is_held
        self.pings.clear()
        self._blocked_since = None
        self._confirmed = UNLIMITED if is_held else position
        self._pinged = position
        self._must_ping = not is_held
        self._sample.begin(now, position)
        if self.phase is FlightPhase.DRAINING:
            self._limit()
        self._changed()

    # -- phases

    def _stop(self, phase: FlightPhase) -> None:
        self.phase, self.window_bytes, self.bytes_per_second = phase, UNLIMITED, None
        self._must_ping = False
        self._changed()

    def _start(self, window_bytes: int = FIRST_WINDOW_BYTES) -> None:
        self.phase, self.window_bytes = FlightPhase.STARTING, window_bytes
        self.bytes_per_second, self._boost = None, FIRST_BOOST
        self._doubt, self._proven = None, 0.0

    def _lose_patience(self, position: int) -> None:
        self._unanswered += 1
        if not self.does_answer:
            self.window_bytes *= IMPATIENCE
            if self._unanswered >= IMPATIENCE:
                self.does_answer = False
                self._stop(FlightPhase.SILENT)
        elif self._unanswered > PATIENCE:
            self._stop(FlightPhase.SILENT)
        else:
            spacing = self.window_bytes // PINGS_PER_WINDOW
            self._confirmed = max(position - self.window_bytes + spacing, self._confirmed)

    def _judge(self, gained: int, position: int, now: float) -> None:
        """Go by what the last pongs said."""
        way = self._way.seconds
        if self.phase is FlightPhase.STARTING:
            standing = self._sample.standing_seconds
            if standing(way, 2) > self._target or standing(way, 4) > self._target / 2:
                if now < self._may_doubt_at and not self._is_hopeless(now):
                    # It was others' a moment ago.
                    self._grow_among_others(gained)
                else:
                    self._suspect(position, now)
            elif self._is_unsuspected():
                self._grow(gained)
        elif self._sample.seconds >= SHORTEST_SAMPLE_SECONDS:
            self._follow(position, now)

    def _is_hopeless(self, now: float) -> bool:
        """Whether pacing was given up, and more in flight only stands longer: the link is slow."""
        return (
            now >= self._hopes_until
            and self._sample.delay_seconds > HOPELESS_SECONDS
            and self._sample.bytes_per_second < self._hoped
        )

    def _suspect(self, position: int, now: float) -> None:
        """There seems to be a queue: no more than now is in flight until that is sure."""
        self._calm_pongs = 0
        if self.suspected_since is None:
            self.suspected_since = now
        elif now - self.suspected_since >= SUSPICION_SECONDS * (1 + 2 * self._stagger):
            self._found_queue(position, now)

    def _follow(self, position: int, now: float) -> None:
        """Go by the rate of the link, which may have changed."""
        sample, delay = self._sample, self._queue_seconds()
        assert self.bytes_per_second is not None
        # Without a queue the link may be faster than what was confirmed, with one it is not.
        if delay > self._target / 2 or sample.bytes_per_second > self.bytes_per_second:
            self.bytes_per_second = max(sample.bytes_per_second, 1.0)
        if delay > self._target / 4:
            self._boost = FIRST_BOOST
        else:
            if now - self._doubted_at >= CALM_SECONDS:
                self._lowered_from = 0.0
            self._way.seen(now)
            self._doubt_rate(now)
        self._proven = max(self._proven, self.bytes_per_second)
        self._limit()
        if self._boost > MOST_BOOST:
            # It has become another link.
            self._start(self.window_bytes)
            return
        if self._way.is_stale(now):
            self._empty(_Doubt(delay, 0), position, now)
        elif self.bytes_per_second < self._proven / 2 and now >= self._may_doubt_at:
            self._lowered(delay, position, now)

    def _doubt_rate(self, now: float) -> None:
        """There is no queue: if the rate is what holds the tunnel back, it may be higher."""
        round_trips = max(BOOST_ROUND_TRIPS * self._way.seconds, SHORTEST_SAMPLE_SECONDS)
        if self._blocked_since is None or now - self._boosted_at <= round_trips:
            return
        assert self.bytes_per_second is not None
        self.bytes_per_second *= 1.0 + self._boost
        self._boost, self._boosted_at = self._boost * 2, now

    def _queue_seconds(self) -> float:
        """How long bytes stand in the queue.

        On a long way the bytes of a window may come together and wait for each other, without a
        queue that lasts. On a short one a service that parses in bursts answers some pings at once.
        """
        way = self._way.seconds
        if way > self._target:
            return self._sample.standing_seconds(way)
        return self._sample.delay_seconds

    def _grow(self, gained: int) -> None:
        """There is no queue: double the window in a round trip if it is what holds the tunnel back.

        Else it keeps to what was confirmed in `OPEN_SECONDS`.
        """
        if self._blocked_since is not None:
            self.window_bytes += gained
        way = self._way.seconds
        if self._sample.seconds >= SHORTEST_SAMPLE_SECONDS:
            proven = int(self._sample.bytes_per_second * (way + OPEN_SECONDS))
            self.window_bytes = max(self.window_bytes, proven)

    def _is_unsuspected(self) -> bool:
        """Count a pong without a queue; return whether there is no suspicion, or none any more."""
        if self.suspected_since is not None:
            self._calm_pongs += 1
            if self._calm_pongs < CALM_PONGS:
                return False
            self.suspected_since = None
        return True

    def _grow_among_others(self, gained: int) -> None:
        """The queue is others': the window grows to `OPEN_WINDOW_BYTES`, and no further."""
        if self._blocked_since is not None:
            wanted = min(self.window_bytes + gained, OPEN_WINDOW_BYTES)
            self.window_bytes = max(self.window_bytes, wanted)

    def _found_queue(self, position: int, now: float) -> None:
        """There is a queue: the rate of the link shows, as it was busy since that was suspected."""
        assert self.suspected_since is not None
        seconds = max(now - self.suspected_since, self._way.seconds)
        self.suspected_since = None
        self._hoped = 0.0
        self.bytes_per_second = max(self._sample.last_bytes_per_second(seconds), 1.0)
        doubt = _Doubt(self._sample.delay_seconds, self.window_bytes)
        self._sample.begin(now, self._confirmed)
        self._empty(doubt, position, now)

    def _empty(self, doubt: _Doubt, position: int, now: float) -> None:
        """Let what is ours leave the queue: is there still one?"""
        self._doubt, self._doubted_at = doubt, now
        self._may_doubt_at = now + self._doubt_seconds * (1 + self._stagger)
        self.phase, self.window_bytes = FlightPhase.DRAINING, 0
        self._drain(position, now)

    def _lowered(self, delay: float, position: int, now: float) -> None:
        """The rate is less than half of what it was: perhaps because of others."""
        assert self.bytes_per_second is not None
        if not self._lowered_from:
            self._lowered_from = self._proven
            self._empty(_Doubt(delay, 0), position, now)
            return
        is_some_left = self.window_bytes > MIN_WINDOW_BYTES
        if is_some_left and self.bytes_per_second >= self._lowered_from / MOST_LOWERED:
            # It was asked already, and to ask stops the tunnel for as long as an answer takes.
            self._proven = self.bytes_per_second
            return
        # So much less in flight, and still a queue: pacing does not help here, or the link has
        # become as slow as that. More in flight will tell.
        self._hoped, self._hopes_until = 2 * self.bytes_per_second, now + HOPE_SECONDS
        self._start(max(self.window_bytes, QUIET_WINDOW_BYTES))
        self._lowered_from = 0.0
        self._may_doubt_at = now + self._truce_seconds
        self._truce_seconds = min(self._truce_seconds * 2, MOST_TRUCE_SECONDS)

    def _was_empty(self, position: int, seconds: float, now: float) -> None:
        """A ping took so long that went out when all before it was confirmed.

        The first one at a position says little: a service that parses some messages ahead has
        confirmed them, and reads no further until they have left. The second one had nothing of
        ours in front of it: what it stood behind is others'.
        """
        if position == self._emptied:
            crowd = self._way.crowd_seconds
            self._way.measured(seconds, now)
            if self._doubt is not None and self.phase is FlightPhase.LIMITED:
                self._answer(self._doubt, self._way.crowd_seconds - crowd)
        self._emptied = position

    def _answer(self, doubt: _Doubt, crowd_seconds: float) -> None:
        """There was a queue, and without us so much of it is there still: is it others'?

        Then less in flight would not make it shorter, and nothing is to be limited for it.
        """
        self._doubt = None
        assert self.bytes_per_second is not None
        if crowd_seconds < max(doubt.seconds, self._target / 2) / 2:
            self._proven, self._doubt_seconds = self.bytes_per_second, DOUBT_SECONDS
            return
        self._lowered_from = 0.0
        self._doubt_seconds = min(self._doubt_seconds * 2, MOST_DOUBT_SECONDS)
        self._may_doubt_at = self._doubted_at + self._doubt_seconds * (1 + self._stagger)
        if doubt.window_bytes:
            self._start(max(doubt.window_bytes, QUIET_WINDOW_BYTES))
        else:
            self.bytes_per_second = max(self.bytes_per_second, self._proven)
            self._limit()

    def _limit(self) -> None:
        assert self.bytes_per_second is not None
        self.phase = FlightPhase.LIMITED
        spread = min(max(self._sample.spread_seconds - self._target / 4, 0.0) * 2, self._target)
        seconds = self._target + self._way.seconds + spread
        self.window_bytes = max(int(self.bytes_per_second * seconds), MIN_WINDOW_BYTES)

    def _drain(self, position: int, now: float) -> None:
        """Send nothing until a ping behind all bytes is answered; the next one measures the way."""
        if self._emptied == position:
            self._limit()
            self._sample.begin(now + self._way.seconds, position)
            self._must_ping = True
        elif self._confirmed >= position:
            self._must_ping = True
