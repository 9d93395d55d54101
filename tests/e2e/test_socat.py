"""socat through tunnels: as the local client and as the server behind the destination."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.support.programs import require_program, run_program, running_program, wait_for_port
from tests.support.rig import echo
from tests.support.sockets import free_port
from tunnelfleet.runtime import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rig import Rig

BODY = random.Random(5).randbytes(2_000_000)


def test_socat_sends_its_input_and_prints_the_answer(rig: Rig) -> None:
    """It ends its side at the end of its input, and waits for the rest of the answer."""
    socat = require_program("socat")
    pair = rig.pair({"APP": rig.backends.echo().address})
    done = run_program([socat, "-t", "20", "-", f"TCP:127.0.0.1:{pair.tcp().port}"], stdin=BODY)
    assert done.stdout == BODY


def test_socat_over_a_unix_socket(rig: Rig, tmp_path: Path) -> None:
    socat = require_program("socat")
    listen = {"APP": UnixAddress(str(tmp_path / "listen.sock"))}
    pair = rig.pair({"APP": rig.backends.echo().address}, listen=listen)
    done = run_program([socat, "-t", "20", "-", f"UNIX-CONNECT:{pair.address()}"], stdin=BODY)
    assert done.stdout == BODY


def test_socat_as_the_server_that_runs_a_program_per_connection(rig: Rig) -> None:
    socat, port = require_program("socat"), free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
    with running_program([socat, listen, "EXEC:cat"]) as process:
        wait_for_port(port, process)
        pair = rig.pair({"APP": TcpAddress("127.0.0.1", port)})
        with pair.connect() as one, pair.connect() as two:
            for size in (1, 1_000, 100_000):
                assert echo(one, BODY[:size]) == BODY[:size]
                assert echo(two, BODY[-size:]) == BODY[-size:]
