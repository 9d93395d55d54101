"""The events of a gateway: the ring, and those who follow it over HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway_api import ApiClient, ApiRig, api_entry
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway.api import EventFeed
from tunnelfleet.runtime.gateway.api import feed as readers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger("tunnelfleet.test")


def happen(number: int, name: str = "happened") -> None:
    extra = {"event": name, "fields": {"number": number}}
    logger.info("number %d", number, extra=extra)


def numbers(feed: EventFeed, after: int, limit: int = 1_000) -> list[int]:
    return [json.loads(each.data)["number"] for each in feed.after(after, limit).events]


class TestFeed:
    def test_an_event_is_what_the_log_writes_for_programs(self) -> None:
        with EventFeed() as feed:
            happen(7)
        ((number, name, data),) = feed.after(0).events
        assert (number, name) == (1, "happened")
        found = json.loads(data)
        assert (found["event"], found["number"], found["message"]) == ("happened", 7, "number 7")

    def test_lines_are_events_too(self) -> None:
        with EventFeed() as feed:
            logger.warning("look", extra={"tunnel": "a"})
            logger.debug("nothing")
        (found,) = feed.after(0).events
        assert found.name == "log"
        assert json.loads(found.data)["tunnel"] == "a"

    def test_it_hears_while_it_is_entered(self) -> None:
        feed = EventFeed()
        happen(1)
        with feed:
            happen(2)
        happen(3)
        assert numbers(feed, 0) == [2]

    @given(st.integers(1, 20), st.integers(0, 40), st.integers(0, 45), st.integers(1, 25))
    def test_what_came_after(self, capacity: int, count: int, after: int, limit: int) -> None:
        after = min(after, count)
        with EventFeed(capacity) as feed:
            for number in range(1, count + 1):
                happen(number)
        kept = list(range(max(1, count - capacity + 1), count + 1))
        assert numbers(feed, after, limit) == [each for each in kept if each > after][:limit]
        lost = feed.after(after, limit).lost
        assert lost == len([each for each in range(after + 1, count + 1) if each not in kept])
        assert feed.last == count

    def test_one_who_repeats_itself_pushes_nobody_out(self) -> None:
        with EventFeed(capacity=50) as feed:
            happen(1)
            for _ in range(100):
                logger.warning("again", extra={"tunnel": "a"})
        assert feed.after(0).lost == 0
        assert numbers(feed, 0, 1) == [1]

    def test_strangers_who_are_refused_push_nobody_out(self) -> None:
        extra = {"event": "door_refused", "fields": {"number": 0}, "by_stranger": True}
        with EventFeed(capacity=50) as feed:
            happen(1)
            for _ in range(100):
                logger.warning("refused", extra=extra)
        assert numbers(feed, 0, 1) == [1]

    def test_what_cannot_be_told_harms_nobody(self) -> None:
        # pytest's own handler would raise.
        logging.getLogger("tunnelfleet").propagate = False
        with EventFeed() as feed:
            logger.info("%d", "no number", extra={"event": "x", "fields": {}})
            logger.info("fine", extra={"event": "x", "fields": {"what": object()}})
            happen(1)
        assert numbers(feed, 0) == [1]

    def test_who_sleeps_is_woken_once(self) -> None:
        woken: list[str] = []
        with EventFeed() as feed:
            feed.follow("me", lambda: woken.append("me"))
            happen(1)
            assert not feed.sleep_after("me", 0)
            assert feed.sleep_after("me", 1)
            happen(2)
            happen(3)
            assert woken == ["me"]
            assert feed.sleep_after("me", 3)
            feed.unfollow("me")
            happen(4)
        assert woken == ["me"]

    def test_from_many_threads(self) -> None:
        with EventFeed(capacity=10_000) as feed:
            threads = [
                threading.Thread(target=lambda: [happen(n) for n in range(200)]) for _ in range(4)
            ]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
        assert [each.number for each in feed.after(0, 10_000).events] == list(range(1, 801))


class TestFollowing:
    def test_what_happens_is_told(self, client: ApiClient) -> None:
        with client.events() as stream:
            assert stream.response.headers["Content-Type"] == "text/event-stream"
            client.ask("POST", "/v1/tunnels", api_entry("b"))
            event = stream.next("changed_by_api")
            assert event.data["event"] == "changed_by_api"
            assert (event.data["tunnel"], event.data["action"]) == ("b", "added")
            assert stream.next("tunnel_state_changed").data["state"] == "backoff"

    def test_recent_ones_come_first(self, tmp_path: Path) -> None:
        # Without a tunnel, of which something could be told in between.
        with ApiRig(tmp_path) as rig, contextlib.ExitStack() as stack:
            for number in range(5):
                happen(number)
            stream = stack.enter_context(rig.client.events("/v1/events?recent=2"))
            assert [stream.next("happened").data["number"] for _ in range(2)] == [3, 4]
            marked = stream.next()
            assert (marked.event, marked.id) == ("replayed", "")
            happen(5)
            assert stream.next().data["number"] == 5

    def test_without_recent_ones_the_mark_comes_first(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path) as rig:
            happen(1)
            with rig.client.events() as stream:
                assert stream.next().event == "replayed"
                happen(2)
                assert stream.next().data["number"] == 2

    def test_going_on_where_one_was(self, client: ApiClient) -> None:
        with client.events() as stream:
            happen(1)
            seen = stream.next("happened").id
        happen(2)
        happen(3)
        with client.events("/v1/events?recent=0", Last_Event_ID=seen) as stream:
            assert [stream.next("happened").data["number"] for _ in range(2)] == [2, 3]

    @pytest.mark.parametrize("seen", ["", "x", "00000000-5", "{life}-", "{life}-x", "{life}-²"])
    def test_an_id_of_another_life_begins_anew(
        self, rig: ApiRig, client: ApiClient, seen: str
    ) -> None:
        happen(1)
        with client.events(Last_Event_ID=seen.format(life=rig.feed.life)) as stream:
            assert stream.next("happened").data["number"] == 1

    def test_an_id_of_the_future_is_the_present(self, rig: ApiRig, client: ApiClient) -> None:
        happen(1)
        with client.events(Last_Event_ID=f"{rig.feed.life}-999999") as stream:
            happen(2)
            assert stream.next("happened").data["number"] == 2

    def test_what_is_gone_is_told(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path, capacity=10) as rig:
            with rig.client.events() as stream:
                happen(0)
                seen = stream.next("happened").id
            for number in range(1, 21):
                happen(number)
            with rig.client.events(Last_Event_ID=seen) as stream:
                lost = stream.next()
                assert (lost.event, lost.id, lost.data) == (
                    "lost",
                    "",
                    {"event": "lost", "count": 10},
                )
                assert stream.next().data["number"] == 11

    @pytest.mark.parametrize(
        "query", ["recent=-1", "recent=1001", "recent=x", "recent=%C2%B2", "last=1"]
    )
    def test_a_parameter_that_is_none(self, client: ApiClient, query: str) -> None:
        client.get(f"/v1/events?{query}").problem(400, "bad-request")

    def test_head_does_not_follow(self, client: ApiClient) -> None:
        assert client.ask("HEAD", "/v1/events").status == 200


class TestBounds:
    def test_a_quiet_stream_has_a_heartbeat(
        self, client: ApiClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "HEARTBEAT_SECONDS", 0.05)
        with client.events() as stream:
            lines = (stream.response.readline() for _ in range(20))
            assert b":\n" in lines

    def test_a_reader_too_many(self, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readers, "MAX_READERS", 3)
        monkeypatch.setattr(readers, "HEARTBEAT_SECONDS", 0.05)
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(client.events())
            client.get("/v1/events").problem(503, "busy")
            assert client.get("/v1/gateway").status == 200
        # Those who have gone make room.
        eventually(lambda: _can_follow(client))

    def test_a_slow_reader_is_told_and_closed(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path, capacity=100) as rig, slow_reader(rig.client) as sock:
            # Until the kernel takes no more and the ring has gone round.
            text = "x" * 1_500
            eventually(lambda: len(rig.feed.after(0).events) == 100 or happen(0) is not None)
            for number in range(4_000):
                logger.info("%s", text, extra={"event": "long", "fields": {"number": number}})
            got = read_stream(sock)
            assert got.count(b"event: long") < 4_000
            assert b"event: lost\n" in got
            assert got.rstrip(b"\r\n0").endswith(b"}")
            assert rig.client.get("/v1/gateway").status == 200

    def test_one_that_does_not_read_at_all_is_let_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "WRITE_SECONDS", 0.2)
        monkeypatch.setattr(readers, "MAX_READERS", 1)
        with ApiRig(tmp_path, capacity=100) as rig, slow_reader(rig.client):

            def has_made_room() -> bool:
                # What goes round in the ring is not sent: as long as it takes to fill the kernel.
                for number in range(100):
                    fields = {"number": number}
                    logger.info("%s", "x" * 1_500, extra={"event": "long", "fields": fields})
                return _can_follow(rig.client)

            eventually(has_made_room)

    def test_the_end_of_the_server_ends_them(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path) as rig, rig.client.events() as stream:
            rig.server.stop()
            assert [each.event for each in stream] == ["replayed"]

    @pytest.mark.parametrize("recent", ["", "?recent=1"])
    def test_a_token_that_counts_no_more_ends_them(self, tmp_path: Path, recent: str) -> None:
        with ApiRig(tmp_path, token="one") as rig:
            happen(1)
            old = ApiClient(rig.server, {"Authorization": "Bearer one"})
            with old.events(f"/v1/events{recent}") as stream:
                stream.next("replayed")
                rig.token = "one"
                happen(2)
                assert stream.next().data["number"] == 2
                rig.token = "two"
                happen(3)
                assert list(stream) == []
            old.get("/v1/events").problem(401, "unauthorized")
            new = ApiClient(rig.server, {"Authorization": "Bearer two"})
            with new.events("/v1/events?recent=1") as stream:
                assert stream.next().data["number"] == 3
                rig.token = None
                happen(4)
                assert stream.next("happened").data["number"] == 4

    def test_a_quiet_stream_ends_without_a_heartbeat(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "HEARTBEAT_SECONDS", 0.2)
        given = {"Authorization": "Bearer one"}
        with (
            ApiRig(tmp_path, token="one") as rig,
            ApiClient(rig.server, given).events() as stream,
        ):
            stream.next("replayed")
            rig.token = "two"
            assert list(stream) == []

    def test_without_a_feed(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path, has_feed=False) as rig:
            rig.client.get("/v1/events").problem(404, "not-kept")


def _can_follow(client: ApiClient) -> bool:
    try:
        with client.events():
            return True
    except AssertionError:
        return False


@contextlib.contextmanager
def slow_reader(client: ApiClient) -> Iterator[socket.socket]:
    """Follows the events and reads nothing but the headers."""
    with client.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.settimeout(WAIT_SECONDS)
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(20).startswith(b"HTTP/1.1 200")
        yield sock


def read_stream(sock: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65_536):
            got += data
            if got.endswith(b"0\r\n\r\n"):
                break
    return got
