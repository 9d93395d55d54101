"""The kernel's own mail is told apart from a user's by its exact type."""

from __future__ import annotations

from tests.support.actors import Log, Probe
from tests.support.waiting import eventually
from tunnelfleet.actors.kernel import NORMAL, DispatchedFuture, Terminated
from tunnelfleet.actors.kernel.cell import LAUNCH, SPECIAL, Kill, Piped, Start, kind_of
from tunnelfleet.actors.kernel.compat import Envelope
from tunnelfleet.actors.kernel.mailbox import NO_MAIL
from tunnelfleet.actors.kernel.watch import Ended


def test_every_item_of_the_mailbox_is_handled_by_the_kernel():
    assert {Start, Kill, Ended, Piped} <= set(SPECIAL)
    assert type(LAUNCH) not in SPECIAL, "taken out before it reaches a mailbox"


def test_a_users_message_is_never_taken_for_the_kernels(dispatcher):
    log = Log()
    ref = Probe.start(log, dispatcher=dispatcher)
    forwarded = Terminated(ref, NORMAL)
    for message in ((), None, forwarded, ("Kill",)):
        ref.tell(message)
    assert log.wait(4) == [(), None, forwarded, ("Kill",)]


def test_mail_is_named_by_type_not_by_content(dispatcher):
    assert kind_of({"token": "secret-1"}) == "dict"
    assert kind_of(Envelope("text", reply_to=DispatchedFuture())) == "str"
    assert kind_of(test_mail_is_named_by_type_not_by_content).startswith("test_mail")
    timer = Probe.start(dispatcher=dispatcher).ask(lambda actor: actor.schedule(3600, b"x"))
    assert kind_of(timer) == "bytes"


def test_an_actor_without_mail_keeps_no_room_for_it(dispatcher):
    log = Log()
    refs = [Probe.start(log, dispatcher=dispatcher) for _ in range(3)]
    for ref in refs:
        ref.tell("first")
    assert sorted(log.wait(3)) == ["first"] * 3
    eventually(lambda: all(ref.cell.items is NO_MAIL for ref in refs))
    # What comes then is one actor's, and the first of it is handled first.
    for number in range(200):
        refs[0].tell(number)
    assert log.wait(203)[3:] == list(range(200))
    eventually(lambda: all(ref.cell.items is NO_MAIL for ref in refs))
    assert len(NO_MAIL) == 0
