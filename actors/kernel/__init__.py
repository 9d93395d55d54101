"""The actor kernel: pykka actors without a thread each, watched and supervised.

Owns dispatchers, actors, supervisors and the ways between them and a host's ThreadingActors.
Must not know tunnels.
"""

from .actor import DispatchedActor
from .children import (
    AutoShutdown,
    Backoff,
    BackoffState,
    ChildCounts,
    ChildInfo,
    ChildSpec,
    ChildState,
    Restart,
    Shutdown,
    Strategy,
)
from .context import BlockingCallError, ForkedProcessError, ForkGuard, label_here
from .counting import DispatcherStats
from .dispatcher import Dispatcher
from .loop_io import Timer
from .mailbox import DispatchedFuture, DispatchedRef, Reply, ask_future, kill
from .supervisor import SupervisorActor
from .supervisor_messages import (
    ChildBusyError,
    ChildExistsError,
    ChildReady,
    ChildStartError,
    CountChildren,
    DeleteChild,
    RestartChild,
    RestartIntensityExceeded,
    StartChild,
    StopChild,
    SupervisorError,
    SupervisorStoppingError,
    UnknownChildError,
    WhichChildren,
)
from .watch import (
    KILLED,
    NOPROC,
    NORMAL,
    SHUTDOWN,
    ExitKind,
    ExitReason,
    Terminated,
    TerminationReporter,
)

__all__ = [
    "KILLED",
    "NOPROC",
    "NORMAL",
    "SHUTDOWN",
    "AutoShutdown",
    "Backoff",
    "BackoffState",
    "BlockingCallError",
    "ChildBusyError",
    "ChildCounts",
    "ChildExistsError",
    "ChildInfo",
    "ChildReady",
    "ChildSpec",
    "ChildStartError",
    "ChildState",
    "CountChildren",
    "DeleteChild",
    "DispatchedActor",
    "DispatchedFuture",
    "DispatchedRef",
    "Dispatcher",
    "DispatcherStats",
    "ExitKind",
    "ExitReason",
    "ForkGuard",
    "ForkedProcessError",
    "Reply",
    "Restart",
    "RestartChild",
    "RestartIntensityExceeded",
    "Shutdown",
    "StartChild",
    "StopChild",
    "Strategy",
    "SupervisorActor",
    "SupervisorError",
    "SupervisorStoppingError",
    "Terminated",
    "TerminationReporter",
    "Timer",
    "UnknownChildError",
    "WhichChildren",
    "ask_future",
    "kill",
    "label_here",
]
