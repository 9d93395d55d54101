from __future__ import annotations

from tests.support.counted import CountedFleet, open_tunnel
from tunnelfleet.actors.events import TunnelState


def test_each_tunnel_up_to_the_limit_has_a_row_and_the_rest_is_summed() -> None:
    fleet = CountedFleet(rows=2)
    for number in range(5):
        open_tunnel(fleet.meter, f"t{number}", "source", 10**number)
    assert fleet.value("tunnel_sent_bytes_total", tunnel="t1", mode="source") == 10
    assert fleet.value("tunnel_sent_bytes_total", tunnel="t4", mode="source") is None
    assert fleet.value("tunnel_sent_bytes_total", tunnel="other", mode="source") == 11_100
    assert fleet.value("tunnel_state", tunnel="t0", mode="source", state="connected") == 1
    assert fleet.value("tunnel_state", tunnel="other", mode="source", state="connected") == 3
    assert fleet.value("tunnel_queue_wait_seconds_count", tunnel="other", mode="source") == 3
    assert fleet.value("tunnel_ping_round_trip_seconds_sum", tunnel="t0", mode="source") == 0.003
    assert fleet.value("tunnel_reconnects_total", tunnel="t0", mode="source") == 1


def test_the_sum_of_the_rows_is_that_of_the_fleet() -> None:
    fleet = CountedFleet(rows=2)
    for number, state in enumerate(TunnelState):
        mode = ("source", "destination")[number % 2]
        open_tunnel(fleet.meter, f"t{number}", mode, 10**number, state=state)
    for name in ("sent_bytes_total", "received_bytes_total", "streams_active", "reconnects_total"):
        assert fleet.total(f"tunnel_{name}") == fleet.total(name), name
    assert fleet.total("tunnel_state") == fleet.total("tunnels")


def test_no_row_ever_goes_back() -> None:
    fleet = CountedFleet(rows=1)
    shown = open_tunnel(fleet.meter, "shown", "source", 5)
    hidden = open_tunnel(fleet.meter, "hidden", "source", 50)
    fleet.meter.close(shown)
    open_tunnel(fleet.meter, "new", "source", 7)
    assert fleet.value("tunnel_sent_bytes_total", tunnel="other", mode="source") == 50
    fleet.meter.close(hidden)
    assert fleet.value("tunnel_sent_bytes_total", tunnel="other", mode="source") == 50
    assert fleet.value("tunnel_sent_bytes_total", tunnel="new", mode="source") == 7
    assert fleet.value("tunnel_streams_active", tunnel="other", mode="source") == 0


def test_two_long_names_are_two_rows() -> None:
    fleet = CountedFleet(rows=2)
    for end in "ab":
        open_tunnel(fleet.meter, "n" * 500 + end, "source", 5)
    assert len(fleet.samples()) == len(set(fleet.samples()))
    assert fleet.value("tunnel_sent_bytes_total", tunnel="n" * 500 + "b", mode="source") == 5
