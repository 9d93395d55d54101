"""The plan of tunnels on demand: by table, and by property over anything that may happen."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.config import DemandLimits
from tunnelfleet.runtime.gateway.on_demand.facts import (
    AskOutcome,
    CallClose,
    CallDescribe,
    CallOpen,
    CallSearch,
    Demanded,
    DemandPhase,
    EndCause,
    FailKind,
    LetGo,
    SlotLook,
    Tell,
)
from tunnelfleet.runtime.gateway.on_demand.plan import DemandPlan

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.on_demand.facts import Action

LIMITS = DemandLimits(
    wait_seconds=60.0,
    idle_seconds=900.0,
    lifetime_minutes=720,
    max_open=3,
    max_opens_per_hour=5,
    opens_per_second=1.0,
    negative_seconds=30.0,
)
HOURS_12 = 720 * 60.0


@dataclass
class World:
    """A plan with a clock, and the fleet and the service as a test says."""

    limits: DemandLimits = LIMITS
    now: float = 1_000.0
    drain_seconds: float = 30.0
    looks: dict[str, SlotLook] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        numbers = itertools.count(1)
        self.plan = DemandPlan(self.limits, self.now, lambda: f"r{next(numbers)}")

    def step(self, seconds: float = 0.0) -> list[Action]:
        self.now += seconds
        return self.plan.step(
            self.now,
            lambda slot: self.looks.get(slot, SlotLook(runs=False)),
            lambda name: name not in self.forbidden,
            self.drain_seconds,
        )

    def ask(self, name: str = "press-4") -> AskOutcome:
        return self.plan.ask(name, self.now).outcome

    def open(self, name: str = "press-4") -> CallOpen:
        """Somebody has asked, and OpenTunnel is called."""
        assert self.ask(name) is AskOutcome.BEGUN
        (action,) = self.step(1.0)
        assert isinstance(action, CallOpen)
        return action

    def ready(self, name: str = "press-4", connections: int = 0) -> CallOpen:
        """And its tunnel is there."""
        action = self.open(name)
        self.arrive(action, connections)
        return action

    def arrive(self, action: CallOpen, connections: int = 0) -> None:
        assert self.plan.opened(action.request, f"t-{action.request}", self.now)
        self.look(action.slot, connections)
        assert self.step() == [CallDescribe(action.request, f"t-{action.request}")]
        self.plan.described(action.request, has_device=True, is_open=True, now=self.now)
        assert self.step() == [Tell(action.name, action.slot)]

    def look(self, slot: str, connections: int = 0, **given: Any) -> None:
        self.looks[slot] = SlotLook(
            **{"runs": True, "is_connected": True, "connections": connections, **given}
        )

    def ends(self, action: CallOpen, cause: EndCause, told: list[Action]) -> None:
        """It ends: first here, then at the service."""
        assert LetGo(action.request, action.slot) in told
        assert not [each for each in told if isinstance(each, CallClose)]
        del self.looks[action.slot]
        assert self.step(0.1) == [CallClose(action.request, f"t-{action.request}", cause)]
        assert self.step(0.1) == []
        self.plan.closed(action.request)


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_who_asks_has_it_opened_and_others_join(world: World) -> None:
    assert world.ask() is AskOutcome.BEGUN
    assert world.ask() is AskOutcome.JOINED
    assert world.step() == [CallOpen("r1", "press-4", "press-4")]
    assert world.ask() is AskOutcome.JOINED
    assert world.plan.opened("r1", "t-1", world.now)
    assert world.step() == [], "its link is not up"
    world.look("press-4")
    assert world.step() == [CallDescribe("r1", "t-1")]
    assert world.step(10.0) == [], "one question at a time"
    world.plan.described("r1", has_device=False, is_open=True, now=world.now)
    assert world.step(0.4) == []
    assert world.step(0.2) == [CallDescribe("r1", "t-1")]
    assert world.ask() is AskOutcome.JOINED
    world.plan.described("r1", has_device=True, is_open=True, now=world.now)
    assert world.step() == [Tell("press-4", "press-4")]
    assert world.plan.ask("press-4", world.now).slot == "press-4"
    assert world.plan.current("press-4", world.now) == "press-4"
    assert world.plan.current("press-5", world.now) is None


def test_names_are_opened_one_after_the_other_at_the_rate(world: World) -> None:
    for number in (1, 2, 3):
        assert world.ask(f"press-{number}") is AskOutcome.BEGUN
    assert [each.name for each in world.step()] == ["press-1"]
    assert world.step(0.5) == []
    assert [each.name for each in world.step(0.6)] == ["press-2"]
    assert [each.name for each in world.step(1.0)] == ["press-3"]


def test_calls_that_hang_do_not_become_more_and_more() -> None:
    world = World(replace(LIMITS, max_open=10, max_opens_per_hour=10, opens_per_second=1_000.0))
    for number in range(6):
        world.ask(f"press-{number}")
    opened = [each for _ in range(10) for each in world.step(0.1)]
    assert len(opened) == 4
    assert world.plan.opened("r1", "t-1", world.now)
    assert [type(each) for each in world.step(0.1)] == [CallOpen]


@pytest.mark.parametrize(
    ("limits", "outcome", "says"),
    [
        (replace(LIMITS, max_open=2), AskOutcome.FULL, "2 tunnels are open on demand"),
        (
            replace(LIMITS, max_opens_per_hour=2),
            AskOutcome.TOO_OFTEN,
            "2 tunnels were opened within an hour",
        ),
    ],
)
def test_limits(limits: DemandLimits, outcome: AskOutcome, says: str) -> None:
    world = World(limits)
    assert world.ask("press-1") is AskOutcome.BEGUN
    assert world.ask("press-2") is AskOutcome.BEGUN
    verdict = world.plan.ask("press-3", world.now)
    assert verdict.outcome is outcome
    assert verdict.text.startswith(says)
    assert world.ask("press-1") is AskOutcome.JOINED


def test_the_limit_of_an_hour_counts_what_was_closed_and_forgets_after_an_hour() -> None:
    world = World(replace(LIMITS, max_opens_per_hour=1, idle_seconds=10.0))
    action = world.ready()
    world.ends(action, EndCause.IDLE, world.step(10.1))
    assert world.ask() is AskOutcome.TOO_OFTEN
    world.step(3_600.0)
    assert world.ask() is AskOutcome.BEGUN


def test_openings_of_an_earlier_life_count() -> None:
    world = World(replace(LIMITS, max_opens_per_hour=2))
    world.plan.remember_opens([world.now - 10, world.now - 5_000])
    assert world.ask("press-1") is AskOutcome.BEGUN
    assert world.ask("press-2") is AskOutcome.TOO_OFTEN


def test_an_opening_that_is_refused_is_told_and_not_tried_at_once(world: World) -> None:
    action = world.open()
    text = "AccessDeniedException: no"
    world.plan.open_failed(action.request, FailKind.REFUSED, text, world.now)
    assert world.step() == [Tell("press-4", "", text)]
    verdict = world.plan.ask("press-4", world.now)
    assert verdict.outcome is AskOutcome.FAILED_BEFORE
    assert verdict.text == f"{text} (it is tried again in 30 s)"
    world.step(29.0)
    assert world.ask() is AskOutcome.FAILED_BEFORE
    world.step(1.1)
    assert world.ask() is AskOutcome.BEGUN


def test_without_a_negative_time_it_is_tried_at_once() -> None:
    world = World(replace(LIMITS, negative_seconds=0.0))
    action = world.open()
    world.plan.open_failed(action.request, FailKind.REFUSED, "no", world.now)
    assert world.ask() is AskOutcome.BEGUN


def test_what_was_throttled_is_called_again_later_and_later(world: World) -> None:
    action = world.open()
    for pause in (1.0, 2.0, 4.0):
        world.plan.open_failed(action.request, FailKind.THROTTLED, "rate exceeded", world.now)
        assert world.ask("press-4") is AskOutcome.JOINED
        assert world.step(pause - 0.1) == []
        assert world.step(0.2) == [action]
    world.arrive(action)


def test_and_not_for_ever(world: World) -> None:
    action = world.open()
    told: list[Action] = []
    while not told:
        world.plan.open_failed(action.request, FailKind.THROTTLED, "rate exceeded", world.now)
        told = [each for each in world.step(1.0) if isinstance(each, Tell)]
        assert world.now < 1_100.0
    assert "OpenTunnel may not be called more often" in told[0].text  # type: ignore[union-attr]
    assert len(world.plan) == 0


def test_nothing_that_was_throttled_counts_for_the_hour() -> None:
    world = World(replace(LIMITS, max_opens_per_hour=1))
    action = world.open()
    world.plan.open_failed(action.request, FailKind.THROTTLED, "rate exceeded", world.now)
    assert world.step(1.5) == [action]


def test_an_opening_without_an_answer_is_looked_for(world: World) -> None:
    action = world.open()
    assert world.step(29.0) == []
    searched, told = world.step(1.0)
    assert searched == CallSearch(action.request)
    assert isinstance(told, Tell)
    assert told.text == "OpenTunnel for press-4 has not answered within 30 s"
    # The answer comes all the same: the tunnel is closed, for nobody expects it.
    assert not world.plan.opened(action.request, "t-late", world.now)
    assert world.step() == [CallClose(action.request, "t-late", EndCause.ABANDONED)]


def test_a_late_error_says_that_it_may_be_open(world: World) -> None:
    action = world.open()
    world.step(30.0)
    world.plan.open_failed(action.request, FailKind.UNKNOWN, "no answer", world.now)
    assert world.step() == [CallSearch(action.request)]
    world.plan.open_failed(action.request, FailKind.REFUSED, "no", world.now)
    assert world.step() == []


def test_a_device_that_does_not_come(world: World) -> None:
    action = world.open()
    world.plan.opened(action.request, "t-r1", world.now)
    world.look("press-4")
    world.step(59.0)
    told = world.step(1.0)
    (tell,) = [each for each in told if isinstance(each, Tell)]
    assert tell.text.startswith("press-4 has not come to its tunnel within 60 s")
    world.ends(action, EndCause.NO_DEVICE, told)
    assert world.ask() is AskOutcome.FAILED_BEFORE
    # What is known of it now is too late.
    world.plan.described(action.request, has_device=True, is_open=True, now=world.now)
    assert world.step() == []


@pytest.mark.parametrize(
    ("look", "text", "cause"),
    [
        ({"is_down": True, "reason": "403"}, "does not connect: 403", EndCause.LOST),
        ({"is_connected": False, "reason": "refused"}, "within 60 s: refused", EndCause.NO_DEVICE),
        ({"is_connected": False}, "its link does not come up", EndCause.NO_DEVICE),
    ],
)
def test_a_tunnel_whose_own_end_does_not_connect(
    world: World, look: dict[str, Any], text: str, cause: EndCause
) -> None:
    action = world.open()
    world.plan.opened(action.request, "t-r1", world.now)
    world.look("press-4", **look)
    told = world.step(60.0)
    assert [text in each.text for each in told if isinstance(each, Tell)] == [True]
    world.ends(action, cause, told)


def test_a_tunnel_that_somebody_else_has_closed_before_it_was_used(world: World) -> None:
    action = world.open()
    world.plan.opened(action.request, "t-r1", world.now)
    world.look("press-4")
    world.step()
    world.plan.described(action.request, has_device=False, is_open=False, now=world.now)
    told = world.step()
    assert told[0] == Tell("press-4", "", "the tunnel to press-4 was closed by somebody else")
    world.ends(action, EndCause.LOST, told)


def test_looks_for_devices_are_not_too_many() -> None:
    limits = replace(LIMITS, max_open=100, max_opens_per_hour=1_000, opens_per_second=1_000.0)
    world = World(limits)
    for number in range(100):
        world.ask(f"press-{number}")
    for _ in range(100):
        for each in world.step(0.01):
            assert isinstance(each, CallOpen)
            world.plan.opened(each.request, each.request, world.now)
    for number in range(100):
        world.look(f"press-{number}")
    looks = 0
    for _ in range(100):
        for each in world.step(0.1):
            assert isinstance(each, CallDescribe)
            looks += 1
            world.plan.described(each.request, has_device=False, is_open=True, now=world.now)
    assert looks <= 5 + 5 * 10 + 1


class TestEnds:
    def test_idle(self, world: World) -> None:
        action = world.ready()
        assert world.step(899.0) == []
        world.look("press-4", connections=1)
        assert world.step(10.0) == []
        world.look("press-4")
        assert world.step(899.0) == []
        told = world.step(1.1)
        assert world.plan.current("press-4", world.now) is None
        # Whoever comes now gets another one, beside it.
        assert world.ask() is AskOutcome.BEGUN
        assert [each.slot for each in world.plan] == ["press-4", "press-4~2"]
        assert LetGo(action.request, action.slot) in told

    def test_whoever_asks_uses_it(self, world: World) -> None:
        world.ready()
        world.step(899.0)
        assert world.plan.current("press-4", world.now) == "press-4"
        assert world.step(899.0) == []

    def test_closing_waits_for_the_end_here_but_not_for_ever(self, world: World) -> None:
        action = world.ready()
        assert world.step(900.0) == [LetGo(action.request, "press-4")]
        assert world.step(34.0) == []
        closing = CallClose(action.request, "t-r1", EndCause.IDLE)
        assert world.step(1.1) == [closing]
        # It is called until it has worked, or the service has ended the tunnel itself.
        for delay in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
            assert not world.plan.close_failed(action.request, world.now)
            assert world.step(delay - 0.1) == []
            assert world.step(0.2) == [closing]
        world.now += HOURS_12
        assert world.plan.close_failed(action.request, world.now)
        world.plan.closed(action.request)
        assert len(world.plan) == 0
        assert not world.plan.close_failed(action.request, world.now)

    def test_lost(self, world: World) -> None:
        action = world.ready()
        world.look("press-4", is_connected=False, is_down=True, reason="403")
        told = world.step()
        world.ends(action, EndCause.LOST, told)
        assert world.ask() is AskOutcome.BEGUN

    def test_not_allowed_any_more(self, world: World) -> None:
        action = world.ready()
        world.look("press-4", connections=1)
        world.forbidden.add("press-4")
        assert world.step(1.0) == [], "what is open goes on"
        world.look("press-4")
        world.ends(action, EndCause.NOT_ALLOWED, world.step(1.0))

    def test_stop(self, world: World) -> None:
        world.drain_seconds = 1_000.0
        ready = world.ready("press-1")
        opening = world.open("press-2")
        world.ask("press-3")
        world.plan.close_all(world.now)
        told = world.step()
        assert CallClose(ready.request, "t-r1", EndCause.STOP) in told
        assert not [each for each in told if isinstance(each, CallOpen)]
        assert not world.plan.opened(opening.request, "t-r2", world.now)
        assert CallClose(opening.request, "t-r2", EndCause.STOP) in world.step()
        for request in ("r1", "r2"):
            world.plan.closed(request)
        assert len(world.plan) == 0


class TestLifetime:
    def test_the_next_one_takes_over_and_what_is_left_ends(self, world: World) -> None:
        first = world.ready()
        opened_at = world.now
        world.look("press-4", connections=1)
        world.step(HOURS_12 - 901.0)
        (second,) = world.step(2.0)
        assert second == CallOpen("r2", "press-4", "press-4~2")
        assert world.plan.current("press-4", world.now) == "press-4", "until that is there"
        world.arrive(second)  # type: ignore[arg-type]
        assert world.plan.current("press-4", world.now) == "press-4~2"
        # The first one lives on as long as it may.
        assert world.step(opened_at + HOURS_12 - world.now - 1.0) == []
        world.ends(first, EndCause.LIFETIME, world.step(1.1))
        assert [each.slot for each in world.plan] == ["press-4~2"]

    def test_or_with_its_last_connection(self, world: World) -> None:
        first = world.ready()
        world.look("press-4", connections=1)
        world.step(HOURS_12 - 901.0)
        (second,) = world.step(2.0)
        world.arrive(second)  # type: ignore[arg-type]
        world.look("press-4")
        assert world.step(1.0) == [], "somebody may be on the way in"
        world.ends(first, EndCause.LIFETIME, world.step(1.1))

    def test_names_are_used_again(self, world: World) -> None:
        self.test_or_with_its_last_connection(world)
        world.look("press-4~2", connections=1)
        world.step(HOURS_12 - 901.0 - 3.0)
        (third,) = world.step(3.0)
        assert third == CallOpen("r3", "press-4", "press-4")

    def test_without_a_connection_there_is_no_next_one(self) -> None:
        world = World(replace(LIMITS, idle_seconds=43_200.0))
        action = world.ready()
        assert world.step(HOURS_12 - 901.0) == []
        world.ends(action, EndCause.LIFETIME, world.step(2.0))

    def test_one_that_fails_is_tried_again(self, world: World) -> None:
        world.ready()
        world.look("press-4", connections=1)
        world.step(HOURS_12 - 901.0)
        (second,) = world.step(2.0)
        assert isinstance(second, CallOpen)
        world.plan.open_failed(second.request, FailKind.REFUSED, "no", world.now)
        assert world.step() == [Tell("press-4", "", "no")]
        assert world.plan.ask("press-4", world.now).outcome is AskOutcome.READY
        assert world.step(29.0) == []
        assert [type(each) for each in [*world.step(1.1), *world.step(1.0)]] == [CallOpen]

    def test_one_too_many_is_not_opened(self, world: World) -> None:
        world.plan.replace_limits(replace(LIMITS, max_open=1), world.now)
        action = world.ready()
        world.look("press-4", connections=1)
        assert world.step(HOURS_12 - 1.0) == []
        world.ends(action, EndCause.LIFETIME, world.step(1.1))

    def test_a_short_life_has_a_short_lead(self) -> None:
        world = World(replace(LIMITS, lifetime_minutes=1))
        world.ready()
        world.look("press-4", connections=1)
        assert world.step(44.0) == []
        assert [type(each) for each in world.step(1.1)] == [CallOpen]


class TestAnotherLife:
    def demanded(self, world: World, request: str, slot: str, age_seconds: float) -> Demanded:
        begun = world.now - age_seconds
        made = Demanded(request, "press-4", slot, DemandPhase.AWAITED, world.now, begun, begun)
        made.tunnel_id, made.ends_at = f"t-{request}", begun + HOURS_12
        return made

    def test_the_newest_serves_and_others_are_closed(self, world: World) -> None:
        newest = self.demanded(world, "b", "press-4~2", 10.0)
        older = self.demanded(world, "a", "press-4", 20.0)
        ended = self.demanded(world, "c", "press-4~3", HOURS_12)
        assert world.plan.adopt(newest, world.now)
        assert not world.plan.adopt(older, world.now)
        assert not world.plan.adopt(ended, world.now)
        assert world.plan.adopt(newest, world.now), "it is known"
        world.look("press-4~2")
        told = world.step()
        assert CallDescribe("b", "t-b") in told
        assert CallClose("a", "t-a", EndCause.ABANDONED) in told
        assert CallClose("c", "t-c", EndCause.LIFETIME) in told
        assert world.ask() is AskOutcome.JOINED
        world.plan.described("b", has_device=True, is_open=True, now=world.now)
        assert world.step() == [Tell("press-4", "press-4~2")]

    def test_what_was_begun_is_looked_for_by_the_next_actor(self, world: World) -> None:
        action = world.open("press-1")
        ready = world.ready("press-2")
        world.plan.restarted(world.now)
        told = world.step()
        assert CallSearch(action.request) in told
        assert Tell("press-1", "", "the gateway had to restart") in told
        assert world.plan.serving("press-2") == ready.slot


def test_who_leaves_before_it_is_opened_costs_nothing(world: World) -> None:
    world.ask("press-1")
    world.plan.withdraw("press-1")
    assert world.step() == []
    action = world.open("press-2")
    world.plan.withdraw("press-2")
    assert world.plan.opened(action.request, "t-r2", world.now), "it is open, and stays"
    world.plan.withdraw("press-9")


def test_limits_may_change_at_any_time(world: World) -> None:
    world.ready("press-1")
    world.plan.replace_limits(replace(LIMITS, max_open=1, opens_per_second=5.0), world.now)
    assert world.ask("press-2") is AskOutcome.FULL
    world.plan.replace_limits(replace(LIMITS, idle_seconds=1.0), world.now)
    assert isinstance(world.step(1.1)[0], LetGo)


# -- anything that may happen

NAMES = ("a", "b", "c")
HAPPENINGS = [
    "ask",
    "leave",
    "wait",
    "open",
    "throttle",
    "refuse",
    "lose",
    "device",
    "gone",
    "close",
    "close_fails",
    "down",
    "busy",
    "quiet",
    "forbid",
    "restart",
]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(HAPPENINGS),
        st.sampled_from(NAMES),
        st.sampled_from([0.0, 0.3, 1.0, 7.0, 40.0, 700.0, 4_000.0]),
    ),
    max_size=120,
)


class Fuzz:
    """Carries out what the plan says, as badly as the events want."""

    def __init__(self) -> None:
        self.world = World(replace(LIMITS, max_open=3, max_opens_per_hour=6))
        self.opens: list[float] = []
        self.opening: dict[str, CallOpen] = {}
        self.describing: set[str] = set()
        self.closing: set[str] = set()
        self.open: set[str] = set()
        self.waiting: Counter[str] = Counter()
        self.searches = 0

    def act(self, actions: list[Action]) -> None:
        world = self.world
        for each in actions:
            match each:
                case CallOpen(request, _name, slot):
                    assert request not in self.opening
                    self.opens.append(world.now)
                    self.opening[request] = each
                    assert slot not in world.looks
                case CallDescribe(request, _):
                    assert request not in self.describing
                    self.describing.add(request)
                case CallClose(request, tunnel_id, _):
                    assert tunnel_id
                    assert request not in self.closing
                    self.closing.add(request)
                case LetGo(_, slot):
                    world.looks.pop(slot, None)
                case CallSearch():
                    self.searches += 1
                case Tell(name, _, _):
                    self.waiting[name] = 0

    def happen(self, what: str, name: str, seconds: float) -> None:
        world, plan = self.world, self.world.plan
        mine = [each for each in plan if each.name == name]
        match what:
            case "ask":
                outcome = world.ask(name)
                if outcome in (AskOutcome.BEGUN, AskOutcome.JOINED):
                    self.waiting[name] += 1
            case "leave":
                self.waiting[name] = 0
                plan.withdraw(name)
            case "open" | "throttle" | "refuse" | "lose":
                self.answer(what)
            case "device" | "gone":
                for request in list(self.describing):
                    self.describing.discard(request)
                    plan.described(
                        request, has_device=True, is_open=what == "device", now=world.now
                    )
            case "close":
                for request in list(self.closing):
                    self.closing.discard(request)
                    self.open.discard(request)
                    plan.closed(request)
            case "close_fails":
                for request in list(self.closing):
                    self.closing.discard(request)
                    if plan.close_failed(request, world.now):
                        plan.closed(request)
                        self.open.discard(request)
            case "down" | "busy" | "quiet":
                for each in mine:
                    if each.slot in world.looks:
                        world.look(each.slot, int(what == "busy"), is_down=what == "down")
            case "forbid":
                world.forbidden ^= {name}
            case "restart":
                self.opening.clear()
                self.describing.clear()
                self.closing.clear()
                plan.restarted(world.now)
        self.act(world.step(seconds))

    def answer(self, what: str) -> None:
        world, plan = self.world, self.world.plan
        for request, action in list(self.opening.items()):
            del self.opening[request]
            if what == "open":
                self.open.add(request)
                if plan.opened(request, f"t-{request}", world.now):
                    world.look(action.slot)
            else:
                kind = {"throttle": FailKind.THROTTLED, "refuse": FailKind.REFUSED}.get(
                    what, FailKind.UNKNOWN
                )
                plan.open_failed(request, kind, what, world.now)

    def check(self) -> None:
        plan = self.world.plan
        phases = Counter((each.name, each.phase) for each in plan if each.slot)
        for name in NAMES:
            coming = sum(
                phases[name, phase]
                for phase in (DemandPhase.QUEUED, DemandPhase.OPENING, DemandPhase.AWAITED)
            )
            assert coming <= 1
            assert phases[name, DemandPhase.READY] <= 1
            if self.waiting[name]:
                assert coming == 1, "whoever waits is told one day"
        slots = [each.slot for each in plan if each.slot]
        assert len(slots) == len(set(slots))
        expected = [each for each in plan if each.cause is not EndCause.ABANDONED]
        assert len(expected) <= 3
        assert {each.request for each in plan if each.tunnel_id} >= self.open


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_whatever_happens(events: list[tuple[str, str, float]]) -> None:
    fuzz = Fuzz()
    for event in events:
        fuzz.happen(*event)
        fuzz.check()
    # Calls come one a second.
    assert all(b - a >= 0.99 for a, b in itertools.pairwise(fuzz.opens))
    # Left alone, everything is closed, and nobody waits for ever.
    world = fuzz.world
    for _ in range(60):
        fuzz.happen("close", "a", 0.0)
        fuzz.answer("lose")
        fuzz.describing.clear()
        for slot in list(world.looks):
            world.look(slot)
        fuzz.act(world.step(901.0))
    assert len(world.plan) == 0
    assert fuzz.open == set()
    assert fuzz.waiting.total() == 0
