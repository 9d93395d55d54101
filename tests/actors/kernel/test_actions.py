"""Supervision alone, without actors: facts in, actions out, by table and by property."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.supervisors import Dice
from tunnelfleet.actors.kernel import (
    NORMAL,
    SHUTDOWN,
    AutoShutdown,
    Backoff,
    ChildSpec,
    ExitReason,
    Restart,
    Shutdown,
    Strategy,
    SupervisorActor,
)
from tunnelfleet.actors.kernel import supervisor_messages as kinds
from tunnelfleet.actors.kernel.supervision import Supervision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.actors.kernel.supervisor_messages import Action

FAILED = ExitReason.failed(OSError("no"))
SECOND = Backoff(min_seconds=1, max_seconds=8, stability_seconds=10)
ONE, ALL, REST = Strategy.ONE_FOR_ONE, Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE


class Run:
    """One run of a child: what a ref stands for here."""

    def __init__(self, child_id: str) -> None:
        self.child_id = child_id


def spec(child_id: str, **how: Any) -> ChildSpec:
    return ChildSpec(child_id, lambda: None, **how)  # type: ignore[arg-type, return-value]


class World:
    """Carries actions out as a supervisor does, but with nothing real, and writes them down."""

    def __init__(self, specs: Sequence[ChildSpec], strategy: Strategy, **more: Any) -> None:
        self.lines: list[str] = []
        self.broken: set[str] = set()
        self.now = 1000.0
        how: dict[str, Any] = {
            "max_restarts": 3,
            "period_seconds": 5.0,
            "auto_shutdown": AutoShutdown.NEVER,
            "rng": Dice(1.0),
        }
        self.core = Supervision(specs, strategy=strategy, **how | more)
        self.group_delays = 0
        self.waiting: list[Any] = []
        self.exits: list[ExitReason] = []

    def act(self, actions: list[Action]) -> None:
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            line = self.line_of(action)
            if line:
                self.lines.append(line)
            if isinstance(action, kinds.StartNow):
                todo += self.start(action)

    def start(self, action: kinds.StartNow) -> list[Action]:
        name = action.child.spec.id
        if name in self.broken:
            return self.core.start_failed(action, OSError("no"), self.now)
        ref: Any = Run(name)
        return self.core.started(action, ref, self.now)

    def line_of(self, action: Action) -> str:
        match action:
            case kinds.StartNow(child, _):
                return f"start {child.spec.id}"
            case kinds.AskToStop(child, _):
                return f"stop {child.spec.id}"
            case kinds.Force(child):
                return f"force {child.spec.id}"
            case kinds.RestartAfter(child, seconds):
                self.waiting.append(child)
                return f"restart {child.spec.id} after {seconds:g}"
            case kinds.GroupAfter(seconds):
                self.group_delays += 1
                return f"group after {seconds:g}"
            case kinds.CancelGroupTimers():
                self.group_delays = 0
            case kinds.NoteQuarantined(child, _):
                return f"quarantine {child.spec.id}"
            case kinds.StopOnTurn():
                return "on"
            case kinds.NoteGivingUp():
                return "gives up"
            case kinds.ExitNow(reason):
                self.exits.append(reason)
                return "exit"
        return ""

    # -- facts

    def ref_of(self, name: str) -> Any:
        return next(ref for ref, child in self.core.by_ref.items() if child.spec.id == name)

    def tell(self, fact: str) -> None:
        """A fact as the tables below write it: `begin`, `fail a`, `end a`, `due a`, `group`..."""
        verb, _, name = fact.partition(" ")
        match verb:
            case "begin":
                self.act(self.core.begin())
            case "fail" | "end":
                reason = FAILED if verb == "fail" else NORMAL
                self.act(self.core.ended(self.ref_of(name), reason, self.now))
            case "due":
                self.act(self.core.restart_due(self.core.find(name)))
            case "group":
                self.act(self.core.group_due())
            case "turn":
                self.act(self.core.stop_turn())
            case "late":
                self.act(self.core.stop_overdue(self.core.find(name)))
            case "finish":
                self.act(self.core.finish(SHUTDOWN))
            case "break":
                self.broken.add(name)
            case "mend":
                self.broken.discard(name)
            case _:
                raise AssertionError(fact)

    def play(self, facts: str) -> str:
        """Tell facts, separated by commas; return what followed."""
        for fact in facts.split(", "):
            self.tell(fact)
        return ", ".join(self.lines)


A, B, C = spec("a"), spec("b"), spec("c")
SLOW_A, SLOW_B = spec("a", backoff=SECOND), spec("b", backoff=SECOND)

TABLE = {
    "they start in order": (ONE, [A, B], "begin", "start a, start b"),
    "they stop in reverse order, one after the other": (
        ONE,
        [A, B],
        "begin, finish, end b, end a",
        "start a, start b, stop b, stop a, exit",
    ),
    "one that ends while another is asked to stop is not asked": (
        ONE,
        [A, B, C],
        "begin, finish, end b, end c, end a",
        "start a, start b, start c, stop c, stop a, exit",
    ),
    "who does not stop in time is forced": (
        ONE,
        [A],
        "begin, finish, late a, end a",
        "start a, stop a, force a, exit",
    ),
    "a brutal kill does not ask": (
        ONE,
        [spec("a", shutdown=Shutdown.BRUTAL_KILL)],
        "begin, finish, end a",
        "start a, force a, exit",
    ),
    "independent ones are asked in a row, one a turn": (
        ONE,
        [spec("a", independent=True), spec("b", independent=True), C],
        "begin, finish, end c, turn, end a, end b",
        "start a, start b, start c, stop c, stop b, on, stop a, on, exit",
    ),
    "one alone is restarted at once": (ONE, [A, B], "begin, fail a", "start a, start b, start a"),
    "a transient one that ended in order is not": (
        ONE,
        [spec("a", restart=Restart.TRANSIENT), B],
        "begin, end a",
        "start a, start b",
    ),
    "one too many ends the supervisor": (
        ONE,
        [A, B],
        "begin, fail a, fail a, fail a, fail a, end b",
        "start a, start b, start a, start a, start a, gives up, stop b, exit",
    ),
    "with a backoff it waits": (
        ONE,
        [SLOW_A],
        "begin, fail a, due a, fail a, due a",
        "start a, restart a after 1, start a, restart a after 2, start a",
    ),
    "who keeps failing is in quarantine": (
        ONE,
        [spec("a", backoff=SECOND, quarantine_after=2)],
        "begin, fail a, due a, fail a",
        "start a, restart a after 1, start a, quarantine a, restart a after 8",
    ),
    "a start that fails is tried again": (
        ONE,
        [SLOW_A, B],
        "break a, begin, mend a, due a",
        "start a, restart a after 1, start b, start a",
    ),
    "a start that fails without a backoff stops those before it": (
        ONE,
        [A, B, C],
        "break b, begin, end a",
        "start a, start b, gives up, stop a, exit",
    ),
    "all for one": (
        ALL,
        [A, B, C],
        "begin, fail b, end c, end a",
        "start a, start b, start c, stop c, stop a, start a, start b, start c",
    ),
    "the rest for one": (
        REST,
        [A, B, C],
        "begin, fail b, end c",
        "start a, start b, start c, stop c, start b, start c",
    ),
    "a group waits for its delay and for who is still up": (
        REST,
        [SLOW_A, SLOW_B],
        "begin, fail a, group, end b",
        "start a, start b, group after 1, stop b, start a, start b",
    ),
    "the group waits for both delays": (
        ALL,
        [SLOW_A, SLOW_B, C],
        "begin, fail a, end c, end b, group",
        "start a, start b, start c, group after 1, stop c, stop b, start a, start b, start c",
    ),
    "a group of which one cannot be started goes on with the rest": (
        ALL,
        [A, SLOW_B, C],
        "begin, break b, fail c, end b, end a, mend b, group",
        "start a, start b, start c, stop b, stop a, start a, start b, group after 1, stop a",
    ),
}


@pytest.mark.parametrize(
    ("strategy", "specs", "facts", "expected"), TABLE.values(), ids=TABLE.keys()
)
def test_what_follows(
    strategy: Strategy, specs: list[ChildSpec], facts: str, expected: str
) -> None:
    assert World(specs, strategy).play(facts) == expected


def test_a_significant_child_ends_all() -> None:
    ends = spec("a", restart=Restart.TEMPORARY, significant=True)
    world = World([ends, B], ONE, auto_shutdown=AutoShutdown.ANY_SIGNIFICANT)
    assert world.play("begin, end a, end b") == "start a, start b, stop b, exit"
    assert world.exits == [SHUTDOWN]


def test_an_unknown_end_is_nothing() -> None:
    stranger: Any = Run("x")
    assert World([A], ONE).core.ended(stranger, NORMAL, 0.0) == []


def test_a_delay_of_a_group_that_is_gone_is_nothing() -> None:
    world = World([spec("a")], ALL)
    world.act(world.core.begin())
    assert world.core.group_due() == []


def test_what_has_ended_keeps_nothing() -> None:
    world = World([A, B], ONE)
    world.play("begin")
    refs = world.core.clear()
    assert [ref.child_id for ref in refs] == ["b", "a"]  # type: ignore[attr-defined]
    assert not world.core.children


def test_every_action_is_carried_out_by_the_supervisor() -> None:
    assert set(SupervisorActor.ACTIONS) == set(kinds.Action.__args__)


@given(
    st.sampled_from([ONE, ALL, REST]),
    st.lists(st.sampled_from(["plain", "slow", "temporary"]), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=25),
)
@settings(max_examples=150)
def test_whatever_happens_it_ends_once_and_leaves_nobody(
    strategy: Strategy, sorts: list[str], happens: list[tuple[int, bool, bool]]
) -> None:
    how: dict[str, dict[str, Any]] = {
        "plain": {},
        "slow": {"backoff": SECOND},
        "temporary": {"restart": Restart.TEMPORARY},
    }
    specs = [spec(str(number), **how[sort]) for number, sort in enumerate(sorts)]
    world = World(specs, strategy, max_restarts=1_000)
    world.tell("begin")
    for number, is_failure, is_timer in happens:
        world.now += 1
        if is_timer and world.waiting:
            child = world.waiting.pop()
            if child.ref is None and str(child.spec.id) in world.core.children:
                world.act(world.core.restart_due(child))
        elif is_timer and world.group_delays:
            world.group_delays -= 1
            world.act(world.core.group_due())
        elif world.core.by_ref:
            ref = list(world.core.by_ref)[number % len(world.core.by_ref)]
            world.act(world.core.ended(ref, FAILED if is_failure else NORMAL, world.now))
    world.tell("finish")
    for _ in specs:
        for ref in list(world.core.by_ref):
            world.act(world.core.ended(ref, SHUTDOWN, world.now))
    assert world.exits == [SHUTDOWN]
    assert not world.core.by_ref
