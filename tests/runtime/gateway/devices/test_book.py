"""What a notification means, by table and by property."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clocks import SetClock
from tests.support.notifications import BROKER, SECTION, told
from tunnelfleet.proto import Mode
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.config.things import BrokerAddress
from tunnelfleet.runtime.gateway.devices.book import (
    KEEP_SECONDS,
    TAKE_OVER_SECONDS,
    Decision,
    DeviceBook,
    Sections,
    Verdict,
)
from tunnelfleet.runtime.gateway.devices.notification import Notification

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.gateway.devices import Notification

WHERE = str(BROKER)
NOW = 1_000.0


def book(**changes: Any) -> DeviceBook:
    made = DeviceBook()
    made.sections = Sections([replace(SECTION, **changes)])
    return made


def take(made: DeviceBook, notification: Notification, now: float = NOW) -> Decision:
    return made.take(WHERE, notification, now)


def nothing(_made: DeviceBook) -> None: ...


def connected(made: DeviceBook) -> None:
    made.link_up("press-4")


def lost(made: DeviceBook) -> None:
    connected(made)
    made.link_down("press-4", NOW - 1)


def lost_long_ago(made: DeviceBook) -> None:
    connected(made)
    made.link_down("press-4", NOW - TAKE_OVER_SECONDS - 1)


def lost_and_back(made: DeviceBook) -> None:
    lost(made)
    connected(made)


def failed_to_connect(made: DeviceBook) -> None:
    made.link_down("press-4", NOW - 1)


@pytest.mark.parametrize(
    ("what_happened", "second", "verdict", "name"),
    [
        (nothing, told(1), Verdict.DUPLICATE, None),
        (connected, told(1), Verdict.DUPLICATE, None),
        (lost, told(1), Verdict.DUPLICATE, None),
        (nothing, told(2), Verdict.OPENED, "press-4.2"),
        (failed_to_connect, told(2), Verdict.OPENED, "press-4.2"),
        (connected, told(2), Verdict.OPENED, "press-4.2"),
        (lost, told(2), Verdict.TAKES_OVER, "press-4"),
        (lost_long_ago, told(2), Verdict.OPENED, "press-4.2"),
        (lost_and_back, told(2), Verdict.OPENED, "press-4.2"),
        (lost, told(2, "press-4", "HTTP"), Verdict.OPENED, "press-4.2"),
        (lost, told(2, "press-4", "SSH", "HTTP"), Verdict.OPENED, "press-4.2"),
        (lost, told(2, "press-5"), Verdict.OPENED, "press-5"),
        (connected, told(2, "press-4", "VNC"), Verdict.REFUSED, None),
        (lost, told(2, "press-4", "VNC"), Verdict.REFUSED, None),
        (nothing, told(2, "oven"), Verdict.UNKNOWN_THING, None),
    ],
)
def test_a_second_notification(
    what_happened: Callable[[DeviceBook], None],
    second: Notification,
    verdict: Verdict,
    name: str | None,
) -> None:
    made = book()
    first = take(made, told(1))
    assert (first.outcome, first.tunnel and first.tunnel.name) == (Verdict.OPENED, "press-4")
    what_happened(made)
    before = set(made.tunnels)
    decision = take(made, second)
    assert decision.outcome is verdict
    assert (decision.tunnel.name if decision.tunnel else None) == name
    assert set(made.tunnels) == before | ({name} if name else set())
    if name is not None:
        assert decision.wish == made.wishes()[name]
        assert made.tunnels[name].notification == second
    # Whatever it was, it is a duplicate from now on.
    assert take(made, second).outcome is Verdict.DUPLICATE


def test_the_wish_is_what_the_section_says() -> None:
    wish = take(book(), told(1, "press-4", "SSH", "VNC", "HTTP")).wish
    assert wish is not None
    assert (wish.name, wish.mode) == ("press-4", Mode.DESTINATION)
    assert wish.services == {
        "SSH": TcpAddress("press-4.lan", 22),
        "HTTP": TcpAddress("10.0.0.4", 80),
    }
    assert wish.labels == {"site": "lyon", "thing": "press-4"}
    assert wish.endpoint == SECTION.endpoint


def test_the_refused_services_are_named() -> None:
    made = book()
    assert take(made, told(1, "press-4", "SSH", "VNC")).refused == ("VNC",)
    assert take(made, told(2, "press-4", "VNC", "RDP")).refused == ("VNC", "RDP")
    # A tunnel without service ids needs an entry of its own.
    assert take(made, replace(told(3), services=())).outcome is Verdict.REFUSED
    made.sections = Sections([replace(SECTION, services={"": "10.0.0.{n}:22"})])
    wish = take(made, replace(told(4), services=())).wish
    assert wish is not None
    assert wish.services == {"": TcpAddress("10.0.0.4", 22)}


def test_what_was_turned_away_may_come_in_after_a_reload() -> None:
    made = book()
    assert take(made, told(1, "press-4", "VNC")).outcome is Verdict.REFUSED
    assert take(made, told(1, "press-4", "VNC")).outcome is Verdict.DUPLICATE
    made.sections = Sections([replace(SECTION, services={"VNC": 5900})])
    assert take(made, told(1, "press-4", "VNC")).outcome is Verdict.OPENED


def test_the_endpoint_is_of_the_region_unless_the_section_has_one() -> None:
    made = book(endpoint=None)
    wish = take(made, told(1)).wish
    assert wish is not None
    assert str(wish.endpoint) == "wss://data.tunneling.iot.eu-west-1.amazonaws.com"
    bad = take(made, replace(told(2), region="nowhere"))
    assert (bad.outcome, bad.tunnel) == (Verdict.INVALID, None)


def test_names_of_other_sources_are_left_alone() -> None:
    made = book()
    taken = {"press-4", "press-4.2"}
    decision = made.take(WHERE, told(1), NOW, taken.__contains__)
    assert decision.tunnel is not None
    assert decision.tunnel.name == "press-4.3"


def test_of_too_many_the_oldest_that_carries_nothing_gives_way() -> None:
    made = book()
    for number in (1, 2, 3):
        take(made, told(number))
    for name in ("press-4", "press-4.3"):
        made.link_up(name)
    decision = take(made, told(4))
    assert decision.outcome is Verdict.OPENED
    assert decision.tunnel is not None
    assert decision.tunnel.name == "press-4.2"
    made.link_up("press-4.2")
    refused = take(made, told(5))
    assert (refused.outcome, refused.tunnel) == (Verdict.TOO_MANY, None)
    assert len(made.tunnels) == 3
    # Another thing has room of its own.
    assert take(made, told(6, "press-5")).outcome is Verdict.OPENED


def test_a_name_is_free_again_and_its_token_is_still_known() -> None:
    made = book()
    take(made, told(1))
    take(made, told(2))
    assert made.drop("press-4") is not None
    assert made.drop("press-4") is None
    decision = take(made, told(3))
    assert decision.tunnel is not None
    assert decision.tunnel.name == "press-4"
    assert take(made, told(1)).outcome is Verdict.DUPLICATE


@pytest.mark.parametrize("step_seconds", [3_600.0, -3_600.0])
def test_a_clock_that_is_set_changes_no_takeover(step_seconds: float) -> None:
    clock = SetClock()
    made = DeviceBook(clock)
    made.sections = Sections([replace(SECTION, tunnels_per_thing=5)])
    take(made, told(1), clock.wall())
    made.link_up("press-4")
    made.link_down("press-4", clock.wall())
    clock.steps(step_seconds)
    clock.passes(TAKE_OVER_SECONDS)
    assert take(made, told(2), clock.wall()).outcome is Verdict.TAKES_OVER
    made.link_up("press-4")
    made.link_down("press-4", clock.wall())
    clock.steps(step_seconds)
    clock.passes(TAKE_OVER_SECONDS + 1)
    assert take(made, told(3), clock.wall()).outcome is Verdict.OPENED


@pytest.mark.parametrize("step_seconds", [13 * 3_600.0, -13 * 3_600.0])
def test_a_clock_that_is_set_makes_no_tunnel_old_and_none_young(step_seconds: float) -> None:
    clock = SetClock()
    made = DeviceBook(clock)
    made.sections = Sections([SECTION])
    take(made, told(1), clock.wall())
    made.sections = Sections([])
    clock.steps(step_seconds)
    assert made.outdated(clock.wall()) == []
    clock.passes(KEEP_SECONDS + 1)
    assert made.outdated(clock.wall()) == ["press-4"]


def test_what_an_earlier_process_kept_is_as_old_as_the_clock_says() -> None:
    clock = SetClock()
    kept = take(book(), told(1), clock.wall()).tunnel
    assert kept is not None
    clock.steps(-10 * KEEP_SECONDS)
    made = DeviceBook(clock)
    made.restore([kept], lambda _name: False)
    clock.steps(10 * KEEP_SECONDS)
    assert made.outdated(clock.wall()) == []
    clock.passes(KEEP_SECONDS + 1)
    assert made.outdated(clock.wall()) == ["press-4"]


def test_a_thing_that_goes_and_comes_back_has_its_tunnel_again() -> None:
    made = book()
    take(made, told(1))
    made.sections = Sections([replace(SECTION, things=("press-5",))])
    assert made.wishes() == {}
    assert made.outdated(NOW + KEEP_SECONDS) == []
    assert made.outdated(NOW + KEEP_SECONDS + 1) == ["press-4"]
    made.sections = Sections([SECTION])
    assert list(made.wishes()) == ["press-4"]
    assert made.outdated(NOW + KEEP_SECONDS + 1) == []


def test_what_was_kept_is_taken_up() -> None:
    before = book()
    for number in (1, 2):
        take(before, told(number))
    kept = list(before.tunnels.values())
    made = book()
    take(made, told(3))  # while the state could not be read
    found = made.restore(kept, lambda _name: False)
    assert {each.name for each in found} == {"press-4.2", "press-4.3"}
    assert made.restore(kept, lambda _name: False) == []
    assert {each.notification.access_token for each in made.tunnels.values()} == {
        told(number).access_token for number in (1, 2, 3)
    }
    assert take(made, told(1)).outcome is Verdict.DUPLICATE


def test_a_broker_that_has_another_address_since_keeps_its_tunnels() -> None:
    made = book()
    take(made, told(1))
    moved = replace(BROKER, address=BrokerAddress("other", 8883, is_tls=True))
    made.sections = Sections([replace(SECTION, broker=moved)])
    assert list(made.wishes()) == ["press-4"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "up", "down", "drop", "reload"]),
        st.integers(1, 12),
        st.sampled_from(["press-4", "press-5"]),
        st.sampled_from([("SSH",), ("HTTP",), ("SSH", "VNC"), ("VNC",)]),
    ),
    max_size=40,
)


@settings(max_examples=80)
@given(STEPS)
def test_whatever_happens_it_holds(steps: list[tuple[str, int, str, tuple[str, ...]]]) -> None:
    made = book()
    up: set[str] = set()
    for moment, (step, number, thing, services) in enumerate(steps):
        now = NOW + moment
        names = list(made.tunnels)
        name = names[number % len(names)] if names else ""
        match step:
            case "take":
                tokens = {each: made.tunnels[each] for each in up & made.tunnels.keys()}
                decision = made.take(WHERE, told(number, thing, *services), now)
                # A tunnel that is up keeps its token.
                assert tokens.items() <= made.tunnels.items()
                assert (decision.tunnel is None) == (decision.wish is None)
            case "up":
                made.link_up(name)
                up.add(name)
            case "down":
                made.link_down(name, now)
                up.discard(name)
            case "drop":
                made.drop(name)
                up.discard(name)
            case "reload":
                made.sections = Sections([SECTION])
        hashes = [each.notification.token_hash for each in made.tunnels.values()]
        assert len(hashes) == len(set(hashes))
        assert all(made.has_token(each) for each in hashes)
        for each in ("press-4", "press-5"):
            assert len(made.hashes_of(each)) <= SECTION.tunnels_per_thing
        assert made.wishes().keys() == made.tunnels.keys()
