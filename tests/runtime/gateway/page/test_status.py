"""What the status page is told: whoever applies the news knows what the gateway knows."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.proto import Mode
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway import TunnelRow
from tunnelfleet.runtime.gateway.forward.survey import FleetSurvey
from tunnelfleet.runtime.gateway.page import Sample
from tunnelfleet.runtime.gateway.page.sample import (
    CONNECTION_FIELDS,
    GATEWAY_FIELDS,
    MAX_CONNECTIONS,
    TUNNEL_FIELDS,
    alerts,
    connection_values,
    gateway_values,
    news,
    tunnel_values,
    values_of_others,
)


def row(name: str, state: TunnelState = TunnelState.CONNECTED, **more: Any) -> TunnelRow:
    keys: dict[str, Any] = {
        "reason": "",
        "services": {"SSH": "127.0.0.1:22"},
        "labels": {},
        "streams": 0,
        "connections": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "reconnects": 0,
        "since": 1.0,
        "source": "files",
        "endpoint": "wss://service.example",
        "place": "fleet.toml:1",
        "channel_id": "",
        **more,
    }
    return TunnelRow(name=name, mode=Mode.SOURCE.value, state=state.value, **keys)


tables = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 3)))
samples = st.builds(
    lambda time, alert, tunnels, connections, gateways: Sample(
        {"time": time, "alerts": alert}, tunnels, connections, gateways
    ),
    st.integers(),
    st.sampled_from([[], ["trouble"]]),
    tables,
    tables,
    tables,
)


@given(st.lists(samples, min_size=1))
def test_whoever_applies_the_news_knows_what_the_gateway_knows(looks: list[Sample]) -> None:
    known: dict[str, dict[str, Any]] = {"tunnels": {}, "connections": {}, "gateways": {}}
    # As the page does it, but that rows are found by a key that they do not carry here.
    before: Sample | None = None
    for now in looks:
        told = news(before, now)
        if told is None:
            assert before is not None
            now_says = {k: v for k, v in now.gateway.items() if k != "time"}
            assert now_says == {k: v for k, v in before.gateway.items() if k != "time"}
        for name, table in known.items():
            if told is None:
                continue
            if told["whole"]:
                table.clear()
            for key in told["gone"][name]:
                del table[key]
            present = getattr(now, name)
            for values in told[name]:
                keys = [key for key in present if present[key] == values]
                table.update(dict.fromkeys(keys, values))
        assert known == {name: getattr(now, name) for name in known}
        before = now


def test_the_first_news_are_the_whole_and_the_same_again_is_no_news() -> None:
    sample = Sample({"name": "gw", "time": 1.0}, {"a": ("a",)})
    told = news(None, sample)
    assert told is not None
    assert told["whole"]
    assert told["tunnels"] == [("a",)]
    assert news(sample, Sample({"name": "gw", "time": 2.0}, {"a": ("a",)})) is None


def test_a_row_has_its_fields_in_order() -> None:
    (values,) = tunnel_values([row("press-4", TunnelState.REFUSED, reason="no")]).values()
    shown = dict(zip(TUNNEL_FIELDS, values, strict=True))
    assert (shown["name"], shown["state"], shown["reason"]) == ("press-4", "refused", "no")


SURVEY = FleetSurvey(
    gateways=[
        {
            "name": name,
            "reached": not trouble,
            "fresh": name != "gone",
            "trouble": trouble,
            "shards": 128,
            "address": "10.0.0.2:7443",
            "tunnels": {"connected": 2, "backoff": 1},
        }
        for name, trouble in (("gw", ""), ("gone", "not heard of"), ("deaf", "no answer"))
    ],
    tunnels=[{"name": name, "state": "unknown", "gateway": "gone"} for name in ("a", "b")],
)


def test_gateways_of_the_fleet_and_what_the_others_have() -> None:
    found = {
        name: dict(zip(GATEWAY_FIELDS, values, strict=True))
        for name, values in gateway_values(SURVEY).items()
    }
    assert {name: each["state"] for name, each in found.items()} == {
        "gw": "up",
        "gone": "away",
        "deaf": "unreached",
    }
    assert (found["gw"]["tunnels"], found["gw"]["connected"]) == (3, 2)
    assert found["deaf"]["trouble"] == "no answer"
    ((name, values),) = values_of_others(SURVEY, own=["a"]).items()
    shown = dict(zip(TUNNEL_FIELDS, values, strict=True))
    assert (name, shown["state"], shown["gateway"]) == ("b", "unknown", "gone")


def test_connections_are_listed_up_to_a_limit() -> None:
    many = [dict.fromkeys(CONNECTION_FIELDS, number) for number in range(MAX_CONNECTIONS + 5)]
    assert len(connection_values(many)) == MAX_CONNECTIONS


def test_alerts_say_what_to_do() -> None:
    rows = [row("a"), row("b", TunnelState.REFUSED), row("c", TunnelState.QUARANTINED)]
    assert alerts(rows[:1], is_reloaded=True) == []
    found = alerts(rows, is_reloaded=False)
    assert "tunnelfleet check" in found[0]
    assert found[1].startswith("1 tunnel is refused:")
    assert "replace-token" in found[1]
    assert found[2].startswith("1 tunnel is quarantined:")
    assert "tunnelfleet retry" in found[2]
