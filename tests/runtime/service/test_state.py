"""The file in which a service's tunnels are kept."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service_client import CLIENT_TOKEN, TunnelClient
from tests.support.waiting import eventually
from tunnelfleet.proto import ConfigError, Mode, TunnelError
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.state import StateError, StateStore
from tunnelfleet.runtime.service.tokens import KeptAccess
from tunnelfleet.runtime.service.tunnels import KeptTunnel, Origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TUNNEL = KeptTunnel(
    "press-4",
    ("SSH", "HTTP"),
    Origin.START,
    12_500.0,
    2e9,
    (
        KeptAccess(Mode.SOURCE, "aa", used=True, client_digest="bb"),
        KeptAccess(Mode.DESTINATION, "cc"),
        KeptAccess(Mode.SOURCE, "dd", is_former=True),
    ),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = StateStore(tmp_path)
    yield opened
    opened.close()


def test_what_is_put_is_there_after_it_was_opened_anew(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.put_tunnel("press-4", TUNNEL)
    store.put_tunnel("gone", KeptTunnel("gone", ()))
    store.put_tunnel("gone", None)
    store.put_record("press-4", 7, {"tags": {"größe": "1"}})
    store.put_record("gone", 8, {})
    store.put_record("gone", 8, None)
    store.close()
    store.close()
    store = StateStore(tmp_path)
    assert store.load_tunnels() == [TUNNEL]
    assert store.load_records() == [("press-4", 7, {"tags": {"größe": "1"}})]
    store.close()


def test_the_last_version_counts(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    for number in range(100):
        store.put_record("a", number, {"version": number})
    store.flush()
    assert store.waiting == 0
    store.close()
    store = StateStore(tmp_path)
    assert store.load_records() == [("a", 99, {"version": 99})]
    store.close()


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    store = StateStore(folder)
    store.put_tunnel("press-4", TUNNEL)
    store.flush()
    for path in (folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    store.close()


def test_a_file_that_others_could_read_is_theirs_no_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    StateStore(tmp_path).close()
    (tmp_path / "state.db").chmod(0o644)
    StateStore(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


def test_one_service_has_it_at_a_time(tmp_path: Path, store: StateStore) -> None:
    with pytest.raises(TunnelError, match="another service has it open") as caught:
        StateStore(tmp_path)
    assert not isinstance(caught.value, ConfigError)


class TestWhatCannotBeUsed:
    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        other = tmp_path / "other"
        (tmp_path / "state.db").symlink_to(other)
        with pytest.raises(ConfigError, match=r"state\.db cannot be used"):
            StateStore(tmp_path)
        assert not other.exists()

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "state.db").mkdir()
        with pytest.raises(ConfigError, match="Is a directory"):
            StateStore(tmp_path)

    def test_what_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "state.db").write_bytes(b"this is none" * 1000)
        with pytest.raises(ConfigError, match="move it away to begin anew"):
            StateStore(tmp_path)

    def test_nobody_is_told_to_move_it_away_for_a_disk_that_takes_nothing(
        self, tmp_path: Path
    ) -> None:
        # A file may have no byte, as on a disk that is full.
        script = (
            "import resource, sys; from pathlib import Path\n"
            "from tunnelfleet.proto import ConfigError\n"
            "from tunnelfleet.runtime.service.state import StateStore\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
            "try: StateStore(Path(sys.argv[1]))\n"
            "except ConfigError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "state.db cannot be used: " in done.stdout
        assert "full" in done.stdout
        assert "move it away" not in done.stdout

    def test_one_of_a_newer_release(self, tmp_path: Path) -> None:
        StateStore(tmp_path).close()
        with sqlite3.connect(tmp_path / "state.db") as database:
            database.execute("PRAGMA user_version=2")
        database.close()
        with pytest.raises(ConfigError, match="newer release"):
            StateStore(tmp_path)

    def test_rows_that_are_none_of_ours(self, tmp_path: Path) -> None:
        store = StateStore(tmp_path)
        store.put_tunnel("press-4", TUNNEL)
        store.close()
        with sqlite3.connect(tmp_path / "state.db") as database:
            database.execute("UPDATE tunnels SET services = 'no json'")
        database.close()
        store = StateStore(tmp_path)
        with pytest.raises(ConfigError, match="cannot be read"):
            store.load_tunnels()
        store.close()


class TestADiskThatFails:
    def test_it_is_told_once_and_tried_until_it_works(
        self,
        store: StateStore,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("tunnelfleet.runtime.service.state.RETRY_SECONDS", 0.01)
        tries, write = [], store._write

        def fail(rows: Any) -> str | None:
            tries.append(len(rows))
            return "the disk is full"

        monkeypatch.setattr(store, "_write", fail)
        store.put_tunnel("press-4", TUNNEL)
        with pytest.raises(StateError, match="the disk is full; it is tried again"):
            store.flush()
        store.put_tunnel("press-5", TUNNEL)
        eventually(lambda: tries[-1:] == [2])
        assert store.failure == "the disk is full"
        monkeypatch.setattr(store, "_write", write)
        eventually(lambda: store.failure is None)
        store.flush()
        assert caplog.text.count("the disk is full") == 1
        eventually(lambda: "is written again" in caplog.text)

    def test_the_relay_does_not_wait_for_it(
        self, store: StateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with TunnelService(tls=False, keeper=store) as service:
            tokens = service.open_tunnel("press-4", ["SSH"])
            hangs, write = threading.Event(), store._write

            def hang(rows: Any) -> str | None:
                hangs.wait()
                return write(rows)

            monkeypatch.setattr(store, "_write", hang)
            client = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
            client.assert_quiet()
            assert service.tunnel("press-4").source_connected
            client.close()
            hangs.set()

    def test_an_end_does_not_wait_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = StateStore(tmp_path)
        monkeypatch.setattr(store, "_write", lambda rows: "the disk is full")
        store.put_tunnel("press-4", TUNNEL)
        store.close()
        assert not store._thread.is_alive()


class TestAService:
    def test_its_tunnels_are_there_again(self, tmp_path: Path) -> None:
        store = StateStore(tmp_path)
        with TunnelService(tls=False, keeper=store) as service:
            kept = service.open_tunnel("kept", ["SSH"], bandwidth_bytes_per_second=1e6)
            service.open_tunnel("closed")
            service.close_tunnel("closed")
            service.open_tunnel("over", lifetime_seconds=0.05)
            client = TunnelClient(service, Mode.SOURCE, kept.source_token, CLIENT_TOKEN)
            client.close()
        store.close()
        store = StateStore(tmp_path)
        with TunnelService(tls=False, keeper=store) as service:
            assert set(service.open_names()) - {"over"} == {"kept"}
            eventually(lambda: service.open_names() == ["kept"])
            client = TunnelClient(service, Mode.SOURCE, kept.source_token, CLIENT_TOKEN)
            client.close()
            with pytest.raises(Exception, match="403"):
                TunnelClient(service, Mode.SOURCE, kept.source_token)
        store.close()

    def test_one_whose_lifetime_ended_meanwhile_is_closed_at_the_start(
        self, tmp_path: Path
    ) -> None:
        store = StateStore(tmp_path)
        service = TunnelService(tls=False, keeper=store)
        tokens = service.open_tunnel("over", lifetime_seconds=1e-6)
        store.close()
        store = StateStore(tmp_path)
        with TunnelService(tls=False, keeper=store) as service:
            assert service.open_names() == []
            with pytest.raises(Exception, match="403"):
                TunnelClient(service, Mode.SOURCE, tokens.source_token)
            store.flush()
            assert store.load_tunnels() == []
        store.close()

    def test_no_token_is_in_its_files(self, tmp_path: Path) -> None:
        store = StateStore(tmp_path)
        with TunnelService(tls=False, keeper=store) as service:
            tokens = service.open_tunnel("press-4", ["SSH"])
            TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN).close()
            store.flush()
            found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            assert b"press-4" in found
            for secret in (tokens.source_token, tokens.destination_token, CLIENT_TOKEN):
                assert secret.encode() not in found
        store.close()
