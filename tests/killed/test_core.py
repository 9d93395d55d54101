"""Each class of the core is killed at each message, and the tunnel goes on as the design says.

docs/architecture.md section 4 says what ends what. Beside the tunnel that is hit another one holds
a connection, which must not notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.backends import Backends
from tests.support.killed.core import SERVICE_ID, Core
from tests.support.killed.core_cases import CASES, CLASSES, Case, Outcome
from tests.support.killed.killing import Kill, Moment, descriptors, handled_messages
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import StartChild, Terminated
from tunnelfleet.runtime import Mode, TunnelState
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.supervisor import RuntimeSupervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.backends import Server


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[TunnelService, Server]]:
    with Backends() as backends, TunnelService(tls=False) as service:
        server = backends.echo()
        # What a process opens once, and keeps, is there before descriptors are counted.
        with Core(service, server) as core:
            core.open()
            core.wait_connected()
            core.talk()
        yield service, server


def kill_at(case: Case, service: TunnelService, server: Server, moment: Moment) -> None:
    before = descriptors()
    with Core(service, server) as core:
        if case.actor is not RuntimeSupervisor:
            core.open_bystander()
        if not case.opens:
            core.open()
            core.wait_connected()
        with Kill(case.actor, case.message, moment, case.label(core)) as kill:
            case.do(core, case)
            kill.wait()
            victim = kill.victim
            assert victim is not None
            eventually(lambda: not victim.is_alive(), f"the end of {victim}")
        check(case, core)
        if core.witness is not None:
            core.check_witness()
            for mode in Mode:
                assert core.end(mode, core.bystander).status().connect_attempts == 1
        assert core.failures() == dict.fromkeys((case.actor.__name__, *case.others), 1)
        if case.outcome is Outcome.RECOVERS:
            for mode in Mode:
                core.runtime.close_tunnel(core.label(mode))
                core.check_gone(mode)
    eventually(lambda: descriptors() <= before, f"{before} descriptors, not {descriptors()}")


def check(case: Case, core: Core) -> None:
    if case.outcome is Outcome.ENDS:
        core.check_gone(case.mode)
        return
    if case.outcome is Outcome.REFUSED:
        core.end(case.mode).wait_for(TunnelState.REFUSED, WAIT_SECONDS)
        tokens = core.tokens[core.name]
        token = tokens.source_token if case.mode is Mode.SOURCE else tokens.destination_token
        core.runtime.replace_token(core.label(case.mode), token)
    if case.outcome is Outcome.DRAINS:
        eventually(
            lambda: (
                core.end(case.mode).stats.state in (TunnelState.DRAINING, TunnelState.STOPPED)
                and SERVICE_ID not in core.end(case.mode).listening
            ),
            "a tunnel that drains",
        )
        core.runtime.close_tunnel(core.label(case.mode))
        core.check_gone(case.mode)
        return
    core.check_recovered()


def is_quick(case: Case) -> bool:
    """A whole runtime takes a second to come back: of those a sample is tried each time."""
    sample = (Terminated, StartChild)
    return case.actor is not RuntimeSupervisor or case.message in sample


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if is_quick(case) else pytest.mark.long, id=case.name)
        for case in CASES
    ],
)
def test_killed_in_the_place_of_the_handler(
    case: Case, shared: tuple[TunnelService, Server]
) -> None:
    kill_at(case, *shared, Moment.BEFORE)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_behind_the_handler(case: Case, shared: tuple[TunnelService, Server]) -> None:
    kill_at(case, *shared, Moment.AFTER)


@pytest.mark.parametrize("actor", CLASSES, ids=lambda actor: actor.__name__)
def test_each_message_of_a_class_has_its_case(actor: type) -> None:
    cases = [case.message for case in CASES if case.actor is actor]
    assert sorted(each.__name__ for each in cases) == sorted(
        each.__name__ for each in handled_messages(actor)
    )
