"""Which dispatcher the calling thread belongs to.

Owns one thread-local and the error about blocking. Must not know what a dispatcher does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .protocols import DispatcherLike


class BlockingCallError(RuntimeError):
    """Raised on a dispatcher thread by a call that would block it.

    The reply would be made by a turn of the very thread that waits for it. Use `tell`, `watch`,
    or `ask(..., block=False)` with `pipe_to_self` instead.
    """


class _ThreadContext(threading.local):
    dispatcher: DispatcherLike | None = None


_context = _ThreadContext()


def current_dispatcher() -> DispatcherLike | None:
    """Return the dispatcher whose thread this is, or None on any other thread."""
    return _context.dispatcher


def label_here() -> str:
    """Return the label of the actor whose turn this is, for the log; empty on other threads."""
    dispatcher = _context.dispatcher
    return "" if dispatcher is None else dispatcher.label_here()


def set_current_dispatcher(dispatcher: DispatcherLike | None) -> None:
    """Bind the calling thread to a dispatcher; only the dispatcher's own thread calls this."""
    _context.dispatcher = dispatcher


def refuse_to_block(call: str) -> None:
    """Raise BlockingCallError if the calling thread is a dispatcher's.

    Args:
        call: what was called, for the message.
    """
    dispatcher = _context.dispatcher
    if dispatcher is not None:
        msg = (
            f"{call} would block the thread of {dispatcher}, and with it every actor there; "
            "use tell, watch, or ask(..., block=False) with pipe_to_self"
        )
        raise BlockingCallError(msg)
