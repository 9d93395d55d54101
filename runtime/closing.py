"""The end of one tunnel, step by step, while its runtime goes on.

Owns the order: its actors end, its supervisor's place is given up, its name becomes free, its users
are answered, whoever closes it is told. It must not know how a tunnel ends within itself.

No lock, no thread: each step is called by the one before it, on a thread of the runtime.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from tunnelfleet.actors.kernel import DeleteChild, StopChild, ask_future

from .supervisor import tunnel_child_id

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedFuture

    from .book import TunnelBook
    from .tunnel import Tunnel, TunnelStatus

__all__ = ["begin_close"]


def begin_close(
    tunnel: Tunnel, supervisor: ActorRef[Any], book: TunnelBook
) -> Future[TunnelStatus]:
    """Have a tunnel closed.

    Args:
        tunnel: the tunnel.
        supervisor: the root that it is a child of.
        book: that it is struck out of.

    Returns:
        What it looked like at its end; done-callbacks run on a thread of the runtime.
    """
    child_id = tunnel_child_id(tunnel.name)
    closed: Future[TunnelStatus] = Future()

    def on_stopped(_reply: DispatchedFuture[Any]) -> None:
        # Everything of it is over: a failed reply says that the runtime is as well.
        reply = ask_future(supervisor, DeleteChild(child_id))
        reply.add_done_callback(on_deleted)

    def on_deleted(_reply: DispatchedFuture[Any]) -> None:
        # Its name is free before its user hears of the end: they may start it again.
        book.remove(tunnel)
        tunnel.finish()
        closed.set_result(tunnel.status())

    ask_future(supervisor, StopChild(child_id)).add_done_callback(on_stopped)
    return closed
