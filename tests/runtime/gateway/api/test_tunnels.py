"""The routes of tunnels, over a Unix socket."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.fleet import wanted
from tests.support.gateway_api import (
    CLIENT_TOKEN,
    OTHER_TOKEN,
    SECRETS,
    TOKEN,
    ApiClient,
    ApiRig,
    api_entry,
)
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway import PutWanted
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from pathlib import Path

ROW = [
    *("name", "mode", "state", "reason", "services", "labels", "streams", "connections"),
    *("sent_bytes", "received_bytes", "reconnects", "since"),
]


def names(client: ApiClient, query: str = "") -> list[str]:
    return [row["name"] for row in client.get(f"/v1/tunnels{query}").json["tunnels"]]


class TestReading:
    def test_a_row_has_the_fields_of_ls_first(self, client: ApiClient) -> None:
        (row,) = client.get("/v1/tunnels").json["tunnels"]
        assert list(row)[: len(ROW)] == ROW
        assert (row["name"], row["source"], row["place"]) == ("a", "files", "fleet.toml:3")
        assert client.get("/v1/tunnels/a").json["labels"] == {"site": "lyon"}

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("", ["a", "b", "c"]),
            ("?name=a", ["a"]),
            ("?name=a&name=c", ["a", "c"]),
            ("?name=*", ["a", "b", "c"]),
            ("?name=[a-c]", []),
            ("?name=?", []),
            ("?mode=source", ["c"]),
            ("?mode=source&mode=destination", ["a", "b", "c"]),
            ("?source=api", ["b", "c"]),
            ("?label=site=lyon", ["a", "c"]),
            ("?label=site=lyon&label=line=2=b", ["c"]),
            ("?state=connected", []),
            ("?label=site=", []),
        ],
    )
    def test_filters(self, client: ApiClient, query: str, found: list[str]) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        labels = {"site": "lyon", "line": "2=b"}
        given = api_entry("c", mode="source", labels=labels, services={"SSH": 0})
        assert client.ask("POST", "/v1/tunnels", given).status == 201
        assert names(client, query) == found

    def test_the_state_is_a_filter(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("POST", "/v1/tunnels/a/drain")
        eventually(lambda: names(client, "?state=stopped") == ["a"])
        assert names(client, "?state=connected&state=refused") == []

    @pytest.mark.parametrize(
        "query",
        ["state=up", "mode=both", "label=site", "nmae=a", "state=", "&".join(["name=a"] * 17)],
    )
    def test_a_filter_that_is_none(self, client: ApiClient, query: str) -> None:
        client.get(f"/v1/tunnels?{query}").problem(400, "bad-request")

    def test_what_is_not_there(self, client: ApiClient) -> None:
        client.get("/v1/tunnels/nobody").problem(404, "unknown-tunnel")
        client.get("/v2/tunnels").problem(404, "not-found")
        answer = client.ask("PATCH", "/v1/tunnels")
        answer.problem(405, "method-not-allowed")
        assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}

    def test_head(self, client: ApiClient) -> None:
        answer = client.ask("HEAD", "/v1/tunnels/a")
        assert (answer.status, answer.text) == (200, "")

    def test_headers_of_every_answer(self, client: ApiClient) -> None:
        for path in ("/v1/tunnels", "/v1/tunnels/nobody", "/nothing"):
            headers = client.get(path).headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "tunnelfleet"


class TestAdding:
    def test_it_runs_and_is_told(self, rig: ApiRig, client: ApiClient) -> None:
        answer = client.ask("POST", "/v1/tunnels", api_entry("b"))
        assert answer.status == 201
        assert answer.headers["Location"] == "/v1/tunnels/b"
        assert answer.json["source"] == "api"
        assert client.get("/v1/tunnels/b").headers["ETag"] == answer.headers["ETag"]
        eventually(lambda: "b" in rig.gateway.state.running)
        told = [json.loads(each.data) for each in rig.feed.after(0).events]
        (change,) = [each for each in told if each["event"] == "changed_by_api"]
        assert (change["tunnel"], change["action"]) == ("b", "added")
        assert change["by"] == f"uid {os.getuid()}"

    @pytest.mark.parametrize("name", ["press/4", "a b", "é", "..", ".", "%2e", "x?y#z", "a+b"])
    def test_any_name(self, client: ApiClient, name: str) -> None:
        answer = client.ask("POST", "/v1/tunnels", api_entry(name))
        assert answer.status == 201
        assert client.get(answer.headers["Location"]).json["name"] == name
        assert client.ask("DELETE", f"/v1/tunnels/{quote(name, safe='')}").status == 204

    @pytest.mark.parametrize("name", ["a", "b"])
    def test_one_of_this_name_is_there(self, client: ApiClient, name: str) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        client.ask("POST", "/v1/tunnels", api_entry(name)).problem(409, "exists")

    @pytest.mark.parametrize(
        ("given", "key"),
        [
            (api_entry(mode="destnation"), "tunnel[b].mode"),
            (api_entry(access_token="tökens"), "tunnel[b].access_token"),
            (
                {k: v for k, v in api_entry().items() if k != "access_token"},
                "tunnel[b].access_token",
            ),
            (api_entry(access_token_file="/etc/passwd"), "tunnel[b].access_token_file"),
            (api_entry(access_token_env="HOME"), "tunnel[b].access_token_env"),
            (api_entry(services={}), "tunnel[b].services"),
            (api_entry(nothing=1), "tunnel[b].nothing"),
            (api_entry(limits={"max_connections": 0}), "tunnel[b].limits.max_connections"),
            (api_entry(labels={"site": None}), "tunnel[b].labels.site"),
            (api_entry(name=None), "tunnel[1].name"),
            (api_entry(name=["a"]), "tunnel[1].name"),
            (api_entry(name="a\x00"), "tunnel[a].name"),
            ({}, "tunnel[1].name"),
        ],
    )
    def test_an_entry_with_mistakes(
        self, client: ApiClient, given: dict[str, Any], key: str
    ) -> None:
        found = client.ask("POST", "/v1/tunnels", given).problem(422, "wrong-entry")
        assert key in [each["key"] for each in found["problems"]]
        assert {each["severity"] for each in found["problems"]} == {"error"}
        assert names(client) == ["a"]

    def test_all_mistakes_at_once(self, client: ApiClient) -> None:
        found = client.ask("POST", "/v1/tunnels", {"name": "b"}).problem(422, "wrong-entry")
        keys = {each["key"] for each in found["problems"]}
        assert keys == {"tunnel[b].mode", "tunnel[b].endpoint", "tunnel[b].access_token"}

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            (b"", "bad-request", 400),
            (b"[]", "bad-request", 400),
            (b'{"half a character: \\ud800": 1}', "bad-request", 400),
            (b'{"name": "half a character: \\ud800"}', "bad-request", 400),
            (b'{"half a character: \xed\xb3\xbf": 1}', "bad-request", 400),
            (b'"text"', "bad-request", 400),
            (b"{", "bad-request", 400),
            (b'{"name": "b", "name": "c"}', "bad-request", 400),
            (b'{"bandwidth": NaN}', "bad-request", 400),
            (b'{"bandwidth": ' + b"9" * 5_000 + b"}", "bad-request", 400),
            (b'{"a":' * 50_000, "bad-request", 400),
            (b"[" * 100_000, "bad-request", 400),
            (b"\xff\xfe", "bad-request", 400),
            (json.dumps({str(n): n for n in range(1_001)}).encode(), "bad-request", 400),
        ],
    )
    def test_a_body_that_is_none(
        self, client: ApiClient, body: bytes, kind: str, status: int
    ) -> None:
        headers = {"Content-Type": "application/json"}
        client.ask("POST", "/v1/tunnels", body, headers).problem(status, kind)

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
    def test_a_body_of_another_type(self, client: ApiClient, kind: str) -> None:
        body = json.dumps(api_entry()).encode()
        answer = client.ask("POST", "/v1/tunnels", body, {"Content-Type": kind})
        assert "application/json" in answer.problem(415, "media-type")["detail"]

    def test_a_full_fleet(self, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tunnelfleet.runtime.gateway.api.context.MAX_TUNNELS", 1)
        client.ask("POST", "/v1/tunnels", api_entry("b")).problem(409, "full")


class TestPutting:
    def test_a_new_one_and_another_in_its_place(self, client: ApiClient) -> None:
        answer = client.ask("PUT", "/v1/tunnels/b", api_entry("b", labels={"n": "1"}))
        assert (answer.status, answer.headers["Location"]) == (201, "/v1/tunnels/b")
        again = client.ask("PUT", "/v1/tunnels/b", api_entry("b", labels={"n": "2"}))
        assert (again.status, again.json["labels"]) == (200, {"n": "2"})
        assert "Location" not in again.headers
        assert again.headers["ETag"] != answer.headers["ETag"]

    def test_the_name_may_be_left_out(self, client: ApiClient) -> None:
        given = api_entry()
        del given["name"]
        assert client.ask("PUT", "/v1/tunnels/b", given).json["name"] == "b"
        answer = client.ask("PUT", "/v1/tunnels/b", api_entry("c"))
        answer.problem(422, "wrong-entry")

    def test_without_a_token_it_keeps_the_ones_it_has(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("PUT", "/v1/tunnels/b", api_entry(client_token=CLIENT_TOKEN))
        given = api_entry(labels={"site": "lyon"})
        del given["access_token"]
        assert client.ask("PUT", "/v1/tunnels/b", given).status == 200
        wish = rig.gateway.state.wish("b")
        assert (wish.access_token, wish.client_token) == (TOKEN, CLIENT_TOKEN)
        assert wish.labels == {"site": "lyon"}

    def test_another_token_has_no_old_client_token(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("PUT", "/v1/tunnels/b", api_entry(client_token=CLIENT_TOKEN))
        client.ask("PUT", "/v1/tunnels/b", api_entry(access_token=OTHER_TOKEN))
        assert rig.gateway.state.wish("b").client_token is None

    def test_conditions(self, client: ApiClient) -> None:
        only_new = {"If-None-Match": "*"}
        first = client.ask("PUT", "/v1/tunnels/b", api_entry(), only_new)
        assert first.status == 201
        client.ask("PUT", "/v1/tunnels/b", api_entry(), only_new).problem(412, "changed")
        tag = first.headers["ETag"]
        second = client.ask("PUT", "/v1/tunnels/b", api_entry(marks=False), {"If-Match": tag})
        assert second.status == 200
        for method, body in (("PUT", api_entry()), ("DELETE", None)):
            for value in (tag, f"W/{second.headers['ETag']}", '"other", "another"'):
                answer = client.ask(method, "/v1/tunnels/b", body, {"If-Match": value})
                answer.problem(412, "changed")
        several = f'"other", {second.headers["ETag"]}'
        assert client.ask("PUT", "/v1/tunnels/b", api_entry(), {"If-Match": several}).status == 200
        assert client.ask("DELETE", "/v1/tunnels/b", headers={"If-Match": "*"}).status == 204
        client.ask("PUT", "/v1/tunnels/b", api_entry(), {"If-Match": "*"}).problem(412, "changed")

    @pytest.mark.parametrize(
        "headers", [{"If-Match": "tag"}, {"If-Match": ""}, {"If-None-Match": '"x"'}]
    )
    def test_a_condition_that_is_none(self, client: ApiClient, headers: dict[str, str]) -> None:
        client.ask("PUT", "/v1/tunnels/b", api_entry(), headers).problem(400, "bad-request")

    def test_the_tag_is_the_entry_s_and_not_the_state_s(
        self, rig: ApiRig, client: ApiClient
    ) -> None:
        tag = client.get("/v1/tunnels/a").headers["ETag"]
        client.ask("POST", "/v1/tunnels/a/drain")
        eventually(lambda: client.get("/v1/tunnels/a").json["state"] == "stopped")
        assert client.get("/v1/tunnels/a").headers["ETag"] == tag
        client.ask("POST", "/v1/tunnels/a/token", {"access_token": OTHER_TOKEN})
        assert client.get("/v1/tunnels/a").headers["ETag"] != tag

    def test_a_proxy_s_password_is_part_of_the_entry(self, client: ApiClient) -> None:
        tags = [
            client.ask(
                "PUT", "/v1/tunnels/b", api_entry(http_proxy=f"http://u:{word}@127.0.0.1:1")
            ).headers["ETag"]
            for word in ("one", "two", "one")
        ]
        assert tags[0] == tags[2] != tags[1]


class TestOthersTunnels:
    @pytest.mark.parametrize(
        ("method", "body"), [("PUT", api_entry("a")), ("DELETE", None)], ids=["PUT", "DELETE"]
    )
    def test_those_of_the_files_are_changed_there(
        self, client: ApiClient, method: str, body: Any
    ) -> None:
        found = client.ask(method, "/v1/tunnels/a", body).problem(409, "not-ours")
        assert "fleet.toml:3" in found["detail"]

    def test_those_of_another_source_too(self, rig: ApiRig, client: ApiClient) -> None:
        rig.gateway.ask(PutWanted("mqtt", wanted("m")))
        found = client.ask("DELETE", "/v1/tunnels/m").problem(409, "not-ours")
        assert "mqtt" in found["detail"]
        client.ask("POST", "/v1/tunnels", api_entry("m")).problem(409, "exists")

    def test_an_entry_of_the_files_wins(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        rig.files.tunnels["b"] = wanted("b", place="fleet.toml:9")
        client.ask("POST", "/v1/reload")
        assert client.get("/v1/tunnels/b").json["source"] == "files"
        del rig.files.tunnels["b"]
        client.ask("POST", "/v1/reload")
        assert client.get("/v1/tunnels/b").json["source"] == "api"


class TestCommands:
    def test_drain_and_retry(self, client: ApiClient) -> None:
        assert client.ask("POST", "/v1/tunnels/a/drain").status == 202
        eventually(lambda: client.get("/v1/tunnels/a").json["state"] == "stopped")
        assert client.ask("POST", "/v1/tunnels/a/retry").status == 202
        eventually(lambda: client.get("/v1/tunnels/a").json["state"] == "backoff")

    def test_of_several(self, client: ApiClient) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        answer = client.ask("POST", "/v1/drain", {"all": True})
        assert (answer.status, sorted(answer.json["tunnels"])) == (202, ["a", "b"])
        eventually(lambda: names(client, "?state=stopped") == ["a", "b"])
        answer = client.ask("POST", "/v1/retry", {"names": ["b", "b"]})
        assert (answer.status, answer.json) == (202, {"tunnels": ["b"]})

    def test_of_several_is_one_line(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        before = rig.feed.last
        client.ask("POST", "/v1/drain", {"all": True})
        client.ask("POST", "/v1/retry", {"names": ["a"]})
        told = [json.loads(each.data) for each in rig.feed.after(before).events]
        changes = [each for each in told if each["event"] == "changed_by_api"]
        assert [each["action"] for each in changes] == ["drained", "retried"]
        assert (changes[0]["count"], sorted(changes[0]["tunnels"])) == (2, ["a", "b"])
        assert changes[1]["tunnel"] == "a"

    @pytest.mark.parametrize("command", ["drain", "retry"])
    def test_of_one_that_is_not_there(self, client: ApiClient, command: str) -> None:
        client.ask("POST", f"/v1/tunnels/x/{command}").problem(404, "unknown-tunnel")
        body = {"names": ["a", "x"]}
        client.ask("POST", f"/v1/{command}", body).problem(404, "unknown-tunnel")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"all": False},
            {"all": 1},
            {"names": []},
            {"names": "a"},
            {"names": [1]},
            {"all": True, "names": ["a"]},
            {"everything": True},
        ],
    )
    def test_which_ones_is_not_said(self, client: ApiClient, body: Any) -> None:
        client.ask("POST", "/v1/drain", body).problem(422, "wrong-entry")


class TestTokens:
    def test_of_an_added_tunnel(self, rig: ApiRig, client: ApiClient) -> None:
        client.ask("POST", "/v1/tunnels", api_entry(client_token=CLIENT_TOKEN, labels={"n": "1"}))
        answer = client.ask("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN})
        assert (answer.status, answer.json["labels"]) == (200, {"n": "1"})
        wish = rig.gateway.state.wish("b")
        assert (wish.access_token, wish.client_token) == (OTHER_TOKEN, None)

    def test_of_one_of_the_files(self, rig: ApiRig, client: ApiClient) -> None:
        body = {"access_token": OTHER_TOKEN, "client_token": CLIENT_TOKEN}
        assert client.ask("POST", "/v1/tunnels/a/token", body).status == 200
        wish = rig.gateway.state.wish("a")
        assert (wish.access_token, wish.client_token) == (OTHER_TOKEN, CLIENT_TOKEN)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"access_token": 1},
            {"access_token": ""},
            {"access_token": "a\nb"},
            {"access_token": OTHER_TOKEN, "client_token": "x"},
            {"access_token": OTHER_TOKEN, "client_token": 4},
            {"access_token": OTHER_TOKEN, "more": 1},
        ],
    )
    @pytest.mark.parametrize("name", ["a", "b"])
    def test_that_are_none(self, rig: ApiRig, client: ApiClient, name: str, body: Any) -> None:
        client.ask("POST", "/v1/tunnels", api_entry("b"))
        before = rig.gateway.state.wish(name)
        client.ask("POST", f"/v1/tunnels/{name}/token", body).problem(422, "wrong-entry")
        assert rig.gateway.state.wish(name) == before

    def test_of_one_that_is_not_there(self, client: ApiClient) -> None:
        body = {"access_token": OTHER_TOKEN}
        client.ask("POST", "/v1/tunnels/x/token", body).problem(404, "unknown-tunnel")

    def test_a_link_is_made_with_the_new_one(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path) as rig, TunnelService(tls=False) as service:
            first = service.open_tunnel("b", ["SSH"])
            given = api_entry(endpoint=service.endpoint, access_token=first.destination_token)
            rig.client.ask("POST", "/v1/tunnels", given)
            eventually(lambda: names(rig.client, "?state=connected") == ["b"])
            connects = rig.gateway.runtime.tunnel("b").stats.connect_attempts
            tokens = service.rotate("b")
            eventually(lambda: names(rig.client, "?state=connected") == [])
            body = {"access_token": tokens.destination_token}
            rig.client.ask("POST", "/v1/tunnels/b/token", body)
            eventually(lambda: names(rig.client, "?state=connected") == ["b"])
            assert rig.gateway.runtime.tunnel("b").stats.connect_attempts > connects


def test_no_answer_no_event_and_no_line_has_a_secret(
    rig: ApiRig, client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    """All routes, with tokens in every place where one can be by mistake."""
    proxy = "http://user:hunter2@127.0.0.1:1"
    client.ask("POST", "/v1/tunnels", api_entry(client_token=CLIENT_TOKEN, http_proxy=proxy))
    client.ask("PUT", "/v1/tunnels/b", api_entry(access_token=OTHER_TOKEN))
    for key in ("access_token", "client_token", "endpoint", "http_proxy", "region", "mode", "ca"):
        for value in (f"{TOKEN} {TOKEN}", f"{TOKEN}\x00", [TOKEN], {TOKEN: TOKEN}):
            client.ask("PUT", "/v1/tunnels/c", api_entry("c", **{key: value}))
    client.ask("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN, "x": TOKEN})
    client.ask("POST", "/v1/tunnels/b/token", {"access_token": f"{OTHER_TOKEN} "})
    client.ask("POST", "/v1/tunnels", TOKEN.encode(), {"Content-Type": "application/json"})
    for path in ("tunnels", "gateway", "actors", "openapi.json", f"tunnels?{TOKEN}", "nothing"):
        client.get(f"/v1/{path}")
    client.get("/v1/tunnels", If_Match=TOKEN, Authorization=f"Bearer {TOKEN}")
    client.ask("POST", "/v1/reload")
    told = [*client.seen, *(each.data for each in rig.feed.after(0).events), caplog.text]
    assert len(told) > 30
    for secret in (*SECRETS, "hunter2"):
        assert not [text for text in told if secret in text]


def test_what_is_added_listens(rig: ApiRig, client: ApiClient) -> None:
    given = api_entry(mode="source", services={"SSH": "127.0.0.1:0"})
    client.ask("POST", "/v1/tunnels", given)
    address = rig.gateway.runtime.tunnel("b").wait_listening("SSH", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    assert client.get("/v1/tunnels/b").json["services"] == {"SSH": str(address)}
