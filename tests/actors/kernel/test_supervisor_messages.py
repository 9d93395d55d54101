"""The errors a supervisor answers with say what to do, and carry their data."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.kernel import (
    KILLED,
    ChildBusyError,
    ChildExistsError,
    ChildStartError,
    ChildState,
    ExitReason,
    RestartIntensityExceeded,
    SupervisorError,
    SupervisorStoppingError,
    UnknownChildError,
)

CAUSE = OSError("no room")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ChildStartError("a", ExitReason.failed(CAUSE)),
            "child 'a' could not be started: failed: OSError: no room",
        ),
        (
            RestartIntensityExceeded("a", KILLED, 3, 5.0),
            "more than 3 restarts in 5 s; the last to end was child 'a': killed",
        ),
        (UnknownChildError("a"), "there is no child 'a'"),
        (ChildExistsError("a"), "there already is a child 'a': stop and delete it, or restart it"),
        (ChildBusyError("a", ChildState.RUNNING), "child 'a' is running: stop it first"),
        (
            SupervisorStoppingError(),
            "the supervisor is stopping and starts no children any more",
        ),
    ],
)
def test_errors_read_well(error, text):
    assert str(error) == text
    assert isinstance(error, SupervisorError)


def test_a_failed_start_names_its_cause():
    error = ChildStartError("a", ExitReason.failed(CAUSE))
    assert error.__cause__ is CAUSE
    assert (error.id, error.reason.exception) == ("a", CAUSE)
