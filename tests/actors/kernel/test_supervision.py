"""What a supervisor does of itself: order, strategies, restarts, backoff, quarantine."""

from __future__ import annotations

import threading

import pykka
import pytest

from tests.support.actors import Log, Probe, ReportingHostActor, fail, reasons, settle, watcher_of
from tests.support.supervisors import (
    LONG,
    Clock,
    Diary,
    Dice,
    child,
    children,
    wait_state,
    worker,
)
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    AutoShutdown,
    Backoff,
    ChildReady,
    ChildSpec,
    ChildStartError,
    ChildState,
    ExitKind,
    Restart,
    RestartChild,
    Shutdown,
    StopChild,
    Strategy,
    SupervisorActor,
)

ENDS = {
    ExitKind.NORMAL: lambda ref: ref.tell(lambda actor: actor.exit()),
    ExitKind.SHUTDOWN: lambda ref: ref.stop(block=False),
    ExitKind.KILLED: lambda ref: ref.kill(),
    ExitKind.FAILED: lambda ref: ref.tell(fail(ValueError("v"))),
}
LAST_WORDS = {
    ExitKind.NORMAL: [("stop", "b")],
    ExitKind.SHUTDOWN: [("stop", "b")],
    ExitKind.KILLED: [],
    ExitKind.FAILED: [("failure", "b", ValueError)],
}
IS_RESTARTED = {
    (Restart.PERMANENT, ExitKind.NORMAL): True,
    (Restart.PERMANENT, ExitKind.SHUTDOWN): True,
    (Restart.PERMANENT, ExitKind.KILLED): True,
    (Restart.PERMANENT, ExitKind.FAILED): True,
    (Restart.TRANSIENT, ExitKind.NORMAL): False,
    (Restart.TRANSIENT, ExitKind.SHUTDOWN): False,
    (Restart.TRANSIENT, ExitKind.KILLED): True,
    (Restart.TRANSIENT, ExitKind.FAILED): True,
    (Restart.TEMPORARY, ExitKind.NORMAL): False,
    (Restart.TEMPORARY, ExitKind.SHUTDOWN): False,
    (Restart.TEMPORARY, ExitKind.KILLED): False,
    (Restart.TEMPORARY, ExitKind.FAILED): False,
}
CONSEQUENCES = {
    Strategy.ONE_FOR_ONE: [("start", "b")],
    Strategy.ONE_FOR_ALL: [
        ("stop", "c"),
        ("stop", "a"),
        ("start", "a"),
        ("start", "b"),
        ("start", "c"),
    ],
    Strategy.REST_FOR_ONE: [("stop", "c"), ("start", "b"), ("start", "c")],
}
STARTS = [("start", "a"), ("start", "b"), ("start", "c")]


@pytest.mark.parametrize("strategy", Strategy, ids=lambda s: s.value)
@pytest.mark.parametrize(
    ("restart", "kind"), IS_RESTARTED, ids=[f"{r.value}-{k.value}" for r, k in IS_RESTARTED]
)
def test_who_is_restarted_by_strategy_restart_type_and_exit_kind(
    dispatcher, strategy, restart, kind
):
    log = Log()
    specs = [worker("a", log), worker("b", log, restart=restart), worker("c", log)]
    ref = SupervisorActor.start(specs, strategy=strategy, dispatcher=dispatcher)
    before = children(ref)
    ENDS[kind](before["b"].ref)
    expected = [*STARTS, *LAST_WORDS[kind]]
    if IS_RESTARTED[restart, kind]:
        expected += CONSEQUENCES[strategy]
    log.wait(len(expected))
    before["b"].ref.actor_stopped.wait(WAIT_SECONDS)
    settle(dispatcher)
    after = children(ref)
    assert log.items == expected
    if IS_RESTARTED[restart, kind]:
        assert [info.state for info in after.values()] == [ChildState.RUNNING] * 3
        assert after["b"].restarts == 1
        assert after["b"].last_reason.kind is kind
    elif restart is Restart.TEMPORARY:
        assert list(after) == ["a", "c"]
    else:
        assert after["b"].state is ChildState.STOPPED
        assert after["b"].ref is None
    ref.stop(timeout=WAIT_SECONDS)


def test_children_start_in_order_and_stop_in_reverse(dispatcher):
    log = Log()
    specs = [worker(name, log) for name in "abc"]
    ref = Diary.start(diary := Log(), specs, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    assert ref.stop(timeout=WAIT_SECONDS) is True
    assert log.items == [*STARTS, ("stop", "c"), ("stop", "b"), ("stop", "a")]
    assert diary.items == [
        *[("started", name) for name in "abc"],
        *[("ended", name, "shutdown") for name in "cba"],
    ]
    assert reasons(told) == ["shutdown"]


def test_a_supervisor_without_children_stops_at_once(dispatcher):
    ref = SupervisorActor.start(dispatcher=dispatcher)
    assert ref.stop(timeout=WAIT_SECONDS) is True


def test_trees_stop_in_order_over_dispatchers(dispatcher, other):
    log = Log()

    def inner(name, where):
        specs = [worker(f"{name}{number}", log) for number in (1, 2)]
        return ChildSpec(
            name,
            lambda: SupervisorActor.start(specs, dispatcher=where),
            shutdown=Shutdown.INFINITY,
        )

    specs = [inner("a", other), worker("m", log, dispatcher=other), inner("b", dispatcher)]
    root = SupervisorActor.start(specs, dispatcher=dispatcher, register=True)
    log.wait(5)
    assert pykka.ActorRegistry.stop_all(timeout=WAIT_SECONDS) == [True]
    stops = [name for event, name in log.items if event == "stop"]
    assert stops == ["b2", "b1", "m", "a2", "a1"]
    assert not root.is_alive()
    assert dispatcher.stats.actors_alive == other.stats.actors_alive == 0


def test_a_child_on_another_dispatcher_is_restarted_there(dispatcher, other):
    ref = SupervisorActor.start([worker("far", dispatcher=other)], dispatcher=dispatcher)
    first = child(ref, "far")
    first.tell(fail(ValueError("v")))
    eventually(lambda: children(ref)["far"].restarts == 1)
    assert child(ref, "far").dispatcher is other
    assert dispatcher.stats.restarts == {"Probe": 1}


# Starts that fail.


class Flaky:
    """A start that fails a number of times."""

    def __init__(self, failures, log=None, error=OSError):
        self.failures = failures
        self.error = error
        self.log = log
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"start {self.calls}")
        return Probe.start(self.log, name="flaky", hooks=self.log is not None)


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_a_child_that_cannot_start_takes_the_supervisor_down_in_order(dispatcher, error):
    log = Log()
    specs = [
        worker("a", log),
        worker("b", log),
        ChildSpec("c", Flaky(1, error=error)),
        worker("d", log),
    ]
    gate = threading.Event()
    dispatcher.call_soon(gate.wait, WAIT_SECONDS)
    ref = SupervisorActor.start(specs, dispatcher=dispatcher)
    stopped = ref.stop(block=False)
    gate.set()
    assert stopped.get(timeout=WAIT_SECONDS) is True
    assert log.items == [("start", "a"), ("start", "b"), ("stop", "b"), ("stop", "a")]


def test_the_reason_names_the_child_that_could_not_start(dispatcher):
    told = Log()

    def scenario(actor):
        actor.watch(SupervisorActor.start([ChildSpec("c", Flaky(1))]))

    Probe.start(told, dispatcher=dispatcher).tell(scenario)
    assert reasons(told) == [
        "failed: ChildStartError: child 'c' could not be started: failed: OSError: start 1"
    ]


def test_a_start_that_fails_at_first_is_retried_with_backoff_and_harms_nobody(dispatcher):
    log = Log()
    flaky = ChildSpec("f", Flaky(2), backoff=Backoff(min_seconds=0.01, max_seconds=0.01))
    specs = [flaky, worker("a", log)]
    strategy = Strategy.ONE_FOR_ALL
    ref = SupervisorActor.start(specs, strategy=strategy, dispatcher=dispatcher)
    info = wait_state(ref, "f", ChildState.RUNNING)
    assert log.items == [("start", "a")]
    assert str(info.last_reason) == "failed: OSError: start 2"


def test_a_restart_that_fails_counts_again_toward_the_intensity(dispatcher):
    class Once(Flaky):
        def __call__(self):
            if self.calls:
                self.calls += 1
                raise OSError("never again")
            return super().__call__()

    start = Once(0)
    ref = SupervisorActor.start([ChildSpec("o", start)], max_restarts=4, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    child(ref, "o").kill()
    [reason] = reasons(told)
    assert "more than 4 restarts in 5 s; the last to end was child 'o'" in reason
    assert start.calls == 1 + 4


# Intensity.


def test_the_intensity_is_exceeded_by_one_more_end_within_the_period(dispatcher):
    log, clock = Log(), Clock()
    specs = [worker("a", log), worker("b", log), worker("c", log)]
    ref = SupervisorActor.start(
        specs, max_restarts=2, period_seconds=10.0, clock=clock, dispatcher=dispatcher
    )
    told = watcher_of(ref, dispatcher)
    for number in range(1, 7):
        clock.now += 5.1
        child(ref, "b").kill()
        eventually(lambda number=number: children(ref)["b"].restarts == number)
    clock.now += 1
    child(ref, "b").kill()
    [reason] = reasons(told)
    assert reason == (
        "failed: RestartIntensityExceeded: more than 2 restarts in 10 s; "
        "the last to end was child 'b': killed"
    )
    assert log.items[-2:] == [("stop", "c"), ("stop", "a")]


def test_children_with_backoff_do_not_count_toward_the_intensity(dispatcher):
    backoff = Backoff(min_seconds=0.001, max_seconds=0.001)
    spec = worker("b", backoff=backoff)
    ref = SupervisorActor.start([spec], max_restarts=0, dispatcher=dispatcher)
    for number in range(1, 6):
        wait_state(ref, "b", ChildState.RUNNING).ref.kill()
        eventually(lambda number=number: children(ref)["b"].restarts == number)
    assert ref.is_alive()


def test_giving_up_reaches_the_supervisor_above_which_restarts_the_tree(dispatcher):
    log = Log()
    inner = ChildSpec("inner", lambda: SupervisorActor.start([worker("w", log)], max_restarts=0))
    root = SupervisorActor.start([inner], dispatcher=dispatcher)
    child(child(root, "inner"), "w").kill()
    eventually(lambda: children(root)["inner"].restarts == 1)
    assert child(child(root, "inner"), "w").is_alive()
    assert log.items == [("start", "w"), ("start", "w")]


# Ends of the supervisor itself.


@pytest.mark.parametrize("end", ["kill", "fail"])
def test_children_do_not_outlive_a_supervisor_that_ends_badly(dispatcher, other, end):
    inner = ChildSpec("inner", lambda: SupervisorActor.start([worker("w")], dispatcher=other))
    ref = SupervisorActor.start([inner, worker("a")], dispatcher=dispatcher)
    refs = [child(ref, "a"), child(ref, "inner"), child(child(ref, "inner"), "w")]
    if end == "kill":
        ref.kill()
    else:
        ref.cell.actor.on_child_ended = lambda *_args: 1 / 0
        refs[0].kill()
    for one in [ref, *refs]:
        assert one.actor_stopped.wait(WAIT_SECONDS)


class Stubborn(Probe):
    """Will not stop."""

    def on_stop_requested(self):
        return False


def test_a_child_that_does_not_stop_in_its_time_is_killed(dispatcher):
    diary = Log()
    specs = [
        ChildSpec("a", Probe.start),
        ChildSpec("b", Stubborn.start, shutdown=0.02),
        ChildSpec("c", Stubborn.start, shutdown=Shutdown.BRUTAL_KILL),
    ]
    ref = Diary.start(diary, specs, dispatcher=dispatcher)
    assert ref.stop(timeout=WAIT_SECONDS) is True
    assert diary.items[3:] == [
        ("ended", "c", "killed"),
        ("ended", "b", "killed"),
        ("ended", "a", "shutdown"),
    ]


def stubborn(name, **spec):
    return ChildSpec(name, Stubborn.start, shutdown=Shutdown.INFINITY, **spec)


def running_children(ref):
    return [name for name, info in children(ref).items() if info.state is ChildState.RUNNING]


def test_independent_children_stop_together_and_in_their_place_among_the_others(dispatcher):
    log = Log()
    crowd = [stubborn(name, independent=True) for name in ("i1", "i2", "i3")]
    specs = [stubborn("i0", independent=True), worker("a", log), *crowd, stubborn("z")]
    ref = Diary.start(diary := Log(), specs, dispatcher=dispatcher)
    refs = {name: info.ref for name, info in children(ref).items()}
    stopping = ref.stop(block=False)
    wait_state(ref, "z", ChildState.STOPPING)
    settle(dispatcher)
    assert running_children(ref) == ["i0", "a", "i1", "i2", "i3"]
    for last, left in [("z", ["i0", "a"]), ("i2", ["i0", "a"]), ("i3", ["i0", "a"]), ("i1", [])]:
        refs[last].tell(lambda actor: actor.exit())
        eventually(lambda left=left: running_children(ref) == left)
        settle(dispatcher)
        assert running_children(ref) == left
    assert ("stop", "a") in log.items
    refs["i0"].tell(lambda actor: actor.exit())
    assert stopping.get(timeout=WAIT_SECONDS) is True
    assert [item[1] for item in diary.items if item[0] == "ended"] == [
        *("z", "i2", "i3", "i1", "a", "i0")
    ]


def test_stopping_many_independent_children_costs_each_the_same(dispatcher):
    def messages_of(count):
        specs = [worker(f"w{n}", independent=True) for n in range(count)]
        ref = SupervisorActor.start(specs, dispatcher=dispatcher)
        settle(dispatcher)
        before = dispatcher.stats.messages_handled
        ref.stop(timeout=WAIT_SECONDS)
        settle(dispatcher)
        return dispatcher.stats.messages_handled - before

    assert messages_of(800) < 6 * messages_of(200)


def test_independent_children_of_every_kind_are_forced_together(dispatcher):
    gate = threading.Event()
    shutdowns: list[float | Shutdown] = [Shutdown.BRUTAL_KILL, 0.01, 0.0]
    specs = [
        ChildSpec(f"{kind.__name__} {number}", kind.start, shutdown=shutdown, independent=True)
        for number, shutdown in enumerate(shutdowns)
        for kind in (ReportingHostActor, Stubborn)
    ]
    ref = SupervisorActor.start(specs, dispatcher=dispatcher)
    refs = [info.ref for info in children(ref).values()]
    for host in refs[::2]:
        host.tell(lambda _actor: gate.wait(WAIT_SECONDS) and None)
    assert ref.stop(timeout=WAIT_SECONDS) is True
    assert dispatcher.stats.abandoned_children == 3
    gate.set()
    for one in refs:
        assert one.actor_stopped.wait(WAIT_SECONDS)


def test_a_stop_takes_over_a_group_of_independent_children_that_is_stopping(dispatcher):
    specs = [stubborn(name, independent=True, backoff=LONG) for name in "abcd"]
    ref = SupervisorActor.start(specs, strategy=Strategy.ONE_FOR_ALL, dispatcher=dispatcher)
    refs = [info.ref for info in children(ref).values()]
    refs[1].kill()
    eventually(lambda: running_children(ref) == [])
    stopping = ref.stop(block=False)
    for one in refs:
        one.kill()
    assert stopping.get(timeout=WAIT_SECONDS) is True


def test_infinity_waits_as_long_as_it_takes(dispatcher):
    spec = ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY)
    ref = SupervisorActor.start([spec], dispatcher=dispatcher)
    stubborn = child(ref, "s")
    stopping = ref.stop(block=False)
    wait_state(ref, "s", ChildState.STOPPING)
    settle(dispatcher)
    assert not stopping.is_resolved
    stubborn.tell(lambda actor: actor.exit())
    assert stopping.get(timeout=WAIT_SECONDS) is True


def test_a_child_that_ends_while_the_supervisor_stops_is_not_restarted(dispatcher):
    log = Log()
    specs = [worker("a", log), ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY)]
    ref = SupervisorActor.start(specs, dispatcher=dispatcher)
    first, stubborn = child(ref, "a"), child(ref, "s")
    stopping = ref.stop(block=False)
    first.tell(fail(ValueError("v")))
    wait_state(ref, "a", ChildState.STOPPED)
    stubborn.kill()
    assert stopping.get(timeout=WAIT_SECONDS) is True
    assert log.items == [("start", "a"), ("failure", "a", ValueError)]


# Backoff and quarantine.


def test_delays_are_capped_first_and_then_jittered_over_the_full_range(dispatcher):
    diary, dice = Log(), Dice(0.0)
    backoff = Backoff(min_seconds=1.0, max_seconds=5.0)
    ref = Diary.start(diary, [worker("w", backoff=backoff)], rng=dice, dispatcher=dispatcher)
    for number in range(1, 6):
        child(ref, "w").kill()
        eventually(lambda number=number: children(ref)["w"].restarts == number)
    assert dice.ranges == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 5.0), (0.0, 5.0)]
    assert [item for item in diary.items if item[0] == "waiting"] == [("waiting", "w", 0.0)] * 5


def test_a_child_waits_out_its_delay(dispatcher):
    diary = Log()
    ref = Diary.start(diary, [worker("w", backoff=LONG)], rng=Dice(1.0), dispatcher=dispatcher)
    child(ref, "w").tell(fail(ValueError("v")))
    info = wait_state(ref, "w", ChildState.WAITING)
    assert (info.ref, str(info.last_reason)) == (None, "failed: ValueError: v")
    assert diary.items[-1] == ("waiting", "w", 3600.0)


@pytest.mark.parametrize(
    ("up_seconds", "second_ceiling"), [(0.0, 2.0), (29.9, 2.0), (30.0, 1.0), (300.0, 1.0)]
)
def test_the_exponent_falls_back_only_after_a_stable_time(dispatcher, up_seconds, second_ceiling):
    clock, dice = Clock(), Dice(0.0)
    spec = worker("w", backoff=Backoff(stability_seconds=30.0))
    ref = SupervisorActor.start([spec], clock=clock, rng=dice, dispatcher=dispatcher)
    child(ref, "w").kill()
    eventually(lambda: children(ref)["w"].restarts == 1)
    clock.now += up_seconds
    child(ref, "w").kill()
    eventually(lambda: children(ref)["w"].restarts == 2)
    assert dice.ranges == [(0.0, 1.0), (0.0, second_ceiling)]


@pytest.mark.parametrize(("is_ready", "second_ceiling"), [(False, 2.0), (True, 1.0)])
def test_stability_counts_from_readiness_if_the_child_reports_it(
    dispatcher, is_ready, second_ceiling
):
    clock, dice = Clock(), Dice(0.0)
    spec = worker("w", backoff=Backoff(stability_seconds=30.0), reports_ready=True)
    ref = SupervisorActor.start([spec], clock=clock, rng=dice, dispatcher=dispatcher)
    child(ref, "w").kill()
    eventually(lambda: children(ref)["w"].restarts == 1)
    clock.now += 100
    if is_ready:
        ref.tell(ChildReady(child(ref, "w")))
        children(ref)
        clock.now += 30
        ref.tell(ChildReady(child(ref, "w")))
    child(ref, "w").kill()
    eventually(lambda: children(ref)["w"].restarts == 2)
    assert dice.ranges == [(0.0, 1.0), (0.0, second_ceiling)]


def quarantine(dispatcher, diary, backoff=LONG, **options):
    """Bring child "bad" into quarantine by three failures in a row; "good" stands by."""
    specs = [
        worker("good", options.pop("log", None)),
        worker("bad", backoff=backoff, quarantine_after=3),
    ]
    ref = Diary.start(diary, specs, rng=Dice(0.0), dispatcher=dispatcher, **options)
    for number in range(3):
        eventually(lambda number=number: children(ref)["bad"].restarts == number)
        child(ref, "bad").tell(fail(ValueError(str(number))))
    diary.wait_for(lambda items: items[-1][0] == "quarantined" or items[-2][0] == "quarantined")
    return ref


def test_a_child_that_keeps_failing_is_quarantined_and_harms_nobody(dispatcher):
    diary, log = Log(), Log()
    ref = quarantine(dispatcher, diary, log=log)
    assert children(ref)["bad"].state is ChildState.QUARANTINED
    assert diary.items[-1] == ("quarantined", "bad", "failed: ValueError: 2")
    assert log.items == [("start", "good")]
    assert ref.is_alive()


def test_a_quarantined_child_is_retried_at_the_longest_delay(dispatcher):
    diary = Log()
    backoff = Backoff(min_seconds=0.03, max_seconds=0.03, stability_seconds=10)
    ref = quarantine(dispatcher, diary, backoff)
    eventually(lambda: children(ref)["bad"].restarts == 3)
    child(ref, "bad").kill()
    assert wait_state(ref, "bad", ChildState.QUARANTINED).restarts == 3
    assert diary.items[-1] == ("quarantined", "bad", "killed")


def test_a_quarantined_child_that_stays_up_has_recovered(dispatcher):
    clock = Clock()
    backoff = Backoff(min_seconds=0.001, max_seconds=0.001, stability_seconds=10)
    ref = quarantine(dispatcher, Log(), backoff, clock=clock)
    eventually(lambda: children(ref)["bad"].restarts == 3)
    clock.now += 11
    child(ref, "bad").kill()
    eventually(lambda: children(ref)["bad"].restarts == 4)
    assert children(ref)["bad"].state is ChildState.RUNNING


def test_a_quarantined_child_is_released_by_command(dispatcher):
    diary = Log()
    ref = quarantine(dispatcher, diary)
    released = ref.ask(RestartChild("bad"), timeout=WAIT_SECONDS)
    assert children(ref)["bad"].ref is released
    released.kill()
    eventually(lambda: children(ref)["bad"].restarts == 4)
    assert diary.items[-2:] == [("waiting", "bad", 0.0), ("started", "bad")]


# Delayed restarts of groups.


def test_siblings_stop_at_once_and_start_together_after_the_delay(dispatcher):
    log = Log()
    specs = [
        worker("a", log),
        worker("b", log, backoff=LONG),
        worker("t", log, restart=Restart.TEMPORARY),
        worker("c", log),
    ]
    ref = SupervisorActor.start(
        specs, strategy=Strategy.ONE_FOR_ALL, rng=Dice(1.0), dispatcher=dispatcher
    )
    child(ref, "b").kill()
    log.wait(7)
    wait_state(ref, "a", ChildState.WAITING)
    after = children(ref)
    assert {name: info.state for name, info in after.items()} == dict.fromkeys(
        "abc", ChildState.WAITING
    )
    assert log.items[4:] == [("stop", "c"), ("stop", "t"), ("stop", "a")]
    restarted = ref.ask(RestartChild("b"), timeout=WAIT_SECONDS)
    assert children(ref)["b"].ref is restarted
    assert log.wait(10)[7:] == [("start", "a"), ("start", "b"), ("start", "c")]
    assert [info.restarts for info in children(ref).values()] == [1, 1, 1]


def test_a_delayed_group_starts_by_itself_when_the_delay_is_over(dispatcher):
    log = Log()
    backoff = Backoff(min_seconds=0.02, max_seconds=0.02)
    specs = [worker("a", log), worker("b", log, backoff=backoff), worker("c", log)]
    ref = SupervisorActor.start(
        specs, strategy=Strategy.REST_FOR_ONE, rng=Dice(1.0), dispatcher=dispatcher
    )
    child(ref, "b").kill()
    assert log.wait(6)[3:] == [("stop", "c"), ("start", "b"), ("start", "c")]
    assert children(ref)["a"].restarts == 0


def test_a_group_waits_for_a_slow_stop_although_the_delay_is_over(dispatcher):
    log = Log()
    backoff = Backoff(min_seconds=0.001, max_seconds=0.001)
    specs = [
        worker("a", log, backoff=backoff),
        ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY),
    ]
    ref = SupervisorActor.start(specs, strategy=Strategy.ONE_FOR_ALL, dispatcher=dispatcher)
    stubborn = child(ref, "s")
    child(ref, "a").kill()
    wait_state(ref, "s", ChildState.STOPPING)
    gate = threading.Event()
    Probe.start(dispatcher=dispatcher).tell(lambda p: p.schedule(0.02, lambda _p: gate.set()))
    assert gate.wait(WAIT_SECONDS)
    assert children(ref)["a"].state is ChildState.WAITING
    stubborn.kill()
    eventually(lambda: [info.restarts for info in children(ref).values()] == [1, 1])


def test_an_earlier_child_that_fails_meanwhile_widens_the_group(dispatcher):
    log = Log()
    specs = [worker("a", log), worker("b", log, backoff=LONG), worker("c", log, backoff=LONG)]
    ref = SupervisorActor.start(
        specs, strategy=Strategy.REST_FOR_ONE, rng=Dice(1.0), dispatcher=dispatcher
    )
    child(ref, "c").kill()
    wait_state(ref, "c", ChildState.WAITING)
    assert child(ref, "b").is_alive()
    child(ref, "a").kill()
    wait_state(ref, "b", ChildState.WAITING)
    assert [info.state for info in children(ref).values()] == [ChildState.WAITING] * 3
    ref.ask(RestartChild("a"), timeout=WAIT_SECONDS)
    assert log.wait(7)[3:] == [("stop", "b"), ("start", "a"), ("start", "b"), ("start", "c")]


def test_a_sibling_that_fails_while_the_group_stops_is_restarted_with_it(dispatcher):
    log = Log()
    specs = [
        worker("a", log),
        worker("b", log),
        ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY),
    ]
    ref = SupervisorActor.start(specs, strategy=Strategy.ONE_FOR_ALL, dispatcher=dispatcher)
    stubborn = child(ref, "s")
    child(ref, "a").kill()
    wait_state(ref, "s", ChildState.STOPPING)
    child(ref, "b").kill()
    wait_state(ref, "b", ChildState.WAITING)
    stubborn.kill()
    eventually(lambda: [info.restarts for info in children(ref).values()] == [1, 1, 1])
    assert log.items == [("start", "a"), ("start", "b")] * 2


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
@pytest.mark.parametrize("backoff", [None, Backoff(min_seconds=0.005, max_seconds=0.005)])
def test_a_group_of_which_one_cannot_start_is_tried_again(dispatcher, strategy, backoff):
    log = Log()

    class SecondTime(Flaky):
        def __call__(self):
            self.calls += 1
            if self.calls == 2:
                raise OSError("not now")
            return Probe.start(log, name="b", hooks=True)

    specs = [worker("a", log), ChildSpec("b", SecondTime(0), backoff=backoff), worker("c", log)]
    ref = SupervisorActor.start(specs, strategy=strategy, dispatcher=dispatcher)
    child(ref, "a").kill()
    eventually(lambda: children(ref)["c"].state is ChildState.RUNNING and len(log.items) >= 8)
    again = [("stop", "a"), ("start", "a")] if strategy is Strategy.ONE_FOR_ALL else []
    assert log.items == [
        *STARTS,
        ("stop", "c"),
        ("stop", "b"),
        ("start", "a"),
        *again,
        ("start", "b"),
        ("start", "c"),
    ]


def test_a_child_stopped_on_command_leaves_its_group(dispatcher):
    log = Log()
    specs = [worker("a", log, backoff=LONG), worker("b", log)]
    ref = SupervisorActor.start(
        specs, strategy=Strategy.ONE_FOR_ALL, rng=Dice(1.0), dispatcher=dispatcher
    )
    child(ref, "a").kill()
    wait_state(ref, "b", ChildState.WAITING)
    ref.ask(StopChild("b"), timeout=WAIT_SECONDS)
    ref.ask(RestartChild("a"), timeout=WAIT_SECONDS)
    assert children(ref)["b"].state is ChildState.STOPPED
    child(ref, "a").kill()
    wait_state(ref, "b", ChildState.WAITING)


def test_a_stop_ends_a_waiting_group(dispatcher):
    specs = [worker("a", backoff=LONG), worker("b")]
    ref = SupervisorActor.start(
        specs, strategy=Strategy.ONE_FOR_ALL, rng=Dice(1.0), dispatcher=dispatcher
    )
    child(ref, "a").kill()
    wait_state(ref, "b", ChildState.WAITING)
    assert ref.stop(timeout=WAIT_SECONDS) is True


# Significant children.


@pytest.mark.parametrize(
    ("auto_shutdown", "ends", "expected"),
    [
        (AutoShutdown.ANY_SIGNIFICANT, ["a"], True),
        (AutoShutdown.ANY_SIGNIFICANT, ["plain"], False),
        (AutoShutdown.ALL_SIGNIFICANT, ["a"], False),
        (AutoShutdown.ALL_SIGNIFICANT, ["a", "t"], True),
        (AutoShutdown.ALL_SIGNIFICANT, ["a", "plain"], False),
    ],
)
def test_the_end_of_significant_children_ends_the_supervisor(
    dispatcher, auto_shutdown, ends, expected
):
    transient, temporary = Restart.TRANSIENT, Restart.TEMPORARY
    specs = [
        worker("a", significant=True, restart=transient),
        worker("t", significant=True, restart=temporary),
        worker("plain", restart=transient),
        worker("last", log := Log()),
    ]
    ref = SupervisorActor.start(specs, auto_shutdown=auto_shutdown, dispatcher=dispatcher)
    told = watcher_of(ref, dispatcher)
    refs = [child(ref, name) for name in ends]
    for one in refs:
        one.tell(lambda actor: actor.exit())
        one.actor_stopped.wait(WAIT_SECONDS)
    if expected:
        assert reasons(told) == ["shutdown"]
        assert log.items == [("start", "last"), ("stop", "last")]
    else:
        settle(dispatcher)
        assert ref.is_alive()


def test_what_does_not_end_by_itself_does_not_end_the_supervisor(dispatcher):
    spec = worker("a", significant=True, restart=Restart.TRANSIENT)
    ref = SupervisorActor.start(
        [spec], auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, dispatcher=dispatcher
    )
    child(ref, "a").kill()
    eventually(lambda: children(ref)["a"].restarts == 1)
    ref.ask(StopChild("a"), timeout=WAIT_SECONDS)
    assert children(ref)["a"].state is ChildState.STOPPED


def test_specs_that_cannot_work_are_refused_at_the_start(dispatcher):
    with pytest.raises(ValueError, match="two children have the id 'a'"):
        SupervisorActor.start([worker("a"), worker("a")], dispatcher=dispatcher)
    spec = worker("a", significant=True, restart=Restart.TRANSIENT)
    with pytest.raises(ValueError, match="auto_shutdown is NEVER"):
        SupervisorActor.start([spec], dispatcher=dispatcher)


def test_the_last_to_leave_a_group_ends_it(dispatcher):
    spec = worker("a", backoff=LONG)
    ref = SupervisorActor.start(
        [spec], strategy=Strategy.ONE_FOR_ALL, rng=Dice(1.0), dispatcher=dispatcher
    )
    child(ref, "a").kill()
    wait_state(ref, "a", ChildState.WAITING)
    ref.ask(StopChild("a"), timeout=WAIT_SECONDS)
    assert ref.ask(RestartChild("a"), timeout=WAIT_SECONDS).is_alive()


def test_a_restart_asked_for_while_siblings_stop_is_answered_if_the_child_is_stopped(dispatcher):
    specs = [
        worker("a", backoff=LONG),
        ChildSpec("s", Stubborn.start, shutdown=Shutdown.INFINITY),
    ]
    ref = SupervisorActor.start(specs, strategy=Strategy.ONE_FOR_ALL, dispatcher=dispatcher)
    child(ref, "a").kill()
    wait_state(ref, "s", ChildState.STOPPING)
    restarted = ref.ask(RestartChild("a"), block=False)
    ref.ask(StopChild("a"), timeout=WAIT_SECONDS)
    with pytest.raises(ChildStartError, match="'a' could not be started: shutdown"):
        restarted.get(timeout=WAIT_SECONDS)
    child(ref, "s").kill()


def test_a_group_that_cannot_start_exceeds_the_intensity(dispatcher):
    log, starts = Log(), []

    def start():
        starts.append(1)
        if len(starts) > 1:
            raise OSError("never again")
        return Probe.start()

    specs = [worker("a", log), ChildSpec("b", start)]
    ref = SupervisorActor.start(
        specs, strategy=Strategy.ONE_FOR_ALL, max_restarts=2, dispatcher=dispatcher
    )
    told = watcher_of(ref, dispatcher)
    child(ref, "a").kill()
    [reason] = reasons(told)
    assert "more than 2 restarts in 5 s; the last to end was child 'b': failed: OSError" in reason
    assert log.items == [("start", "a"), *[("start", "a"), ("stop", "a")] * 2]
    assert len(starts) == 3
