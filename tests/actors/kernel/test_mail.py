"""The kernel's own mail is told apart from a user's by its exact type."""

from __future__ import annotations

from tests.actors.kernel.helpers import Log, Probe
from tunnelfleet.actors.kernel import NORMAL, Terminated
from tunnelfleet.actors.kernel.cell import SPECIAL
from tunnelfleet.actors.kernel.mail import LAUNCH, Ended, Kill, Piped, Start


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
