"""What cannot be meant is refused where it is made; a supervisor survives any message whatever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from tests.support.actors import Probe, settle
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import (
    AutoShutdown,
    Backoff,
    ChildReady,
    ChildSpec,
    CountChildren,
    DeleteChild,
    Restart,
    RestartChild,
    StartChild,
    StopChild,
    Strategy,
    SupervisorActor,
    Terminated,
    UnknownChildError,
)
from tunnelfleet.actors.kernel.children import RestartIntensity

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel import Dispatcher

NAN, INF = float("nan"), float("inf")


def start() -> Any:
    return Probe.start()


MESSAGES = [
    (make, wrong)
    for make in (StopChild, RestartChild, DeleteChild)
    for wrong in ([], {}, None, 1, b"a", ["a"], Probe, object())
] + [
    (make, wrong)
    for make in (StartChild, ChildReady)
    for wrong in ([], {}, None, "a", 1, Probe, start, object())
]


@pytest.mark.parametrize(
    ("make", "wrong"), MESSAGES, ids=lambda value: getattr(value, "__name__", type(value).__name__)
)
def test_a_malformed_command_is_refused_where_it_is_made(make: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{make.__name__}: "):
        make(wrong)


SPECS: list[dict[str, Any]] = [
    {"id": []},
    {"id": None},
    {"start": "Probe"},
    {"start": None},
    {"restart": "permanent"},
    {"shutdown": "5"},
    {"shutdown": None},
    {"shutdown": True},
    {"shutdown": NAN},
    {"shutdown": INF},
    {"shutdown": -1},
    {"significant": 1},
    {"significant": True},
    {"backoff": 1.0},
    {"quarantine_after": 3},
    {"quarantine_after": 0, "backoff": Backoff()},
    {"quarantine_after": 2.5, "backoff": Backoff()},
    {"reports_ready": None},
    {"independent": "yes"},
]


@pytest.mark.parametrize("wrong", SPECS, ids=str)
def test_a_child_spec_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ChildSpec(**{"id": "a", "start": start, **wrong})


@pytest.mark.parametrize("name", ["min_seconds", "max_seconds", "factor", "stability_seconds"])
@pytest.mark.parametrize("wrong", [NAN, INF, -1, "1", None])
def test_a_backoff_that_makes_no_sense_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Backoff(**{name: wrong})


SUPERVISORS: list[dict[str, Any]] = [
    {"period_seconds": 0},
    {"period_seconds": 0.0},
    {"period_seconds": -1},
    {"period_seconds": NAN},
    {"period_seconds": INF},
    {"period_seconds": "5"},
    {"max_restarts": -1},
    {"max_restarts": 1.5},
    {"max_restarts": None},
    {"strategy": "one_for_one"},
    {"auto_shutdown": "never"},
    {"auto_shutdown": None},
    {"clock": 0.0},
    {"rng": None},
    {"children": ["a"]},
    {"children": [StartChild]},
    {"children": [ChildSpec("a", start), ChildSpec("a", start)]},
    {"children": [ChildSpec("a", start, restart=Restart.TEMPORARY, significant=True)]},
]


@pytest.mark.parametrize("wrong", SUPERVISORS, ids=lambda wrong: "-".join(wrong))
def test_a_supervisor_that_makes_no_sense_is_refused(
    dispatcher: Dispatcher, wrong: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        SupervisorActor.start(**wrong, dispatcher=dispatcher)


def test_no_restart_intensity_is_without_a_period() -> None:
    """However short it is, counting does not fail."""
    intensity = RestartIntensity(1, 1e-9)
    assert [intensity.allows(now) for now in (1.0, 2.0, 2.0)] == [True, True, False]


def past_the_constructor(make: Any, **fields: Any) -> Any:
    message = object.__new__(make)
    for name, value in fields.items():
        object.__setattr__(message, name, value)
    return message


class Hostile:
    """Raises whatever is done with it."""

    def _raise(self, *_args: object) -> Any:
        raise RuntimeError("hostile")

    __eq__ = __hash__ = __str__ = __repr__ = __bool__ = __iter__ = _raise


HOSTILE: list[Any] = [
    None,
    [],
    {},
    "RestartChild",
    RestartChild,
    Hostile(),
    Terminated([], None),  # type: ignore[arg-type]
    Terminated(None, None),  # type: ignore[arg-type]
    Terminated("a", Hostile()),  # type: ignore[arg-type]
    past_the_constructor(RestartChild, id=[]),
    past_the_constructor(StopChild, id={}),
    past_the_constructor(DeleteChild, id=Hostile()),
    past_the_constructor(StartChild, spec=[]),
    past_the_constructor(StartChild, spec=Hostile()),
    past_the_constructor(ChildReady, ref=[]),
    ProxyCall(attr_path=("no_such_method",), args=(), kwargs={}),
    ProxyCall(attr_path=("watch",), args=(1, 2, 3), kwargs={}),
    ProxyGetAttr(attr_path=("no_such_attribute",)),
    ProxySetAttr(attr_path=("actor_urn",), value=1),
]


@pytest.mark.parametrize("how", ["told", "asked"])
@pytest.mark.parametrize("message", HOSTILE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("strategy", Strategy)
def test_a_supervisor_survives_any_message(
    dispatcher: Dispatcher, message: Any, how: str, strategy: Strategy
) -> None:
    ref = SupervisorActor.start(
        [ChildSpec("a", start)],
        strategy=strategy,
        auto_shutdown=AutoShutdown.NEVER,
        dispatcher=dispatcher,
    )
    if how == "told":
        ref.tell(message)
    else:
        # An answer or an exception, and no asker that hangs.
        try:
            ref.ask(message, timeout=WAIT_SECONDS)
        except pykka.Timeout:
            raise
        except Exception:
            pass
    settle(dispatcher)
    assert ref.ask(CountChildren(), timeout=WAIT_SECONDS).running == 1
    ref.stop(timeout=WAIT_SECONDS)


def test_who_asks_for_a_child_of_no_name_is_told_so(dispatcher: Dispatcher) -> None:
    ref = SupervisorActor.start(dispatcher=dispatcher)
    with pytest.raises(UnknownChildError):
        ref.ask(past_the_constructor(RestartChild, id=[]), timeout=WAIT_SECONDS)
    with pytest.raises(AttributeError):
        ref.proxy().no_such_method.get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("delay", [INF, 1e300, NAN])
def test_a_timer_takes_any_delay(dispatcher: Dispatcher, delay: float) -> None:
    ref = Probe.start(dispatcher=dispatcher)
    ref.ask(lambda actor: actor.schedule(delay, "never"), timeout=WAIT_SECONDS)
    assert ref.is_alive()
