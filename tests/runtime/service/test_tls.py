"""The service's TLS: a given certificate taken anew, a made one, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

import pytest
from cryptography import x509

from tests.support.clocks import SetClock
from tests.support.service_client import EventLog, TunnelClient
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import ServiceEventKind, TunnelService, tls
from tunnelfleet.runtime.service import service as service_module
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _put(folder: Path, given: Path, name: str = "127.0.0.1") -> Path:
    """Make a certificate and put it where the service was told to find one; return its CA."""
    files = ensure_certificate(folder, name)
    given.mkdir(exist_ok=True)
    shutil.copy(files.certificate, given / "cert.pem")
    shutil.copy(files.private_key, given / "key.pem")
    return files.ca


def test_new_handshakes_use_what_was_taken_anew_and_old_connections_stay(
    tmp_path: Path, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    _put(tmp_path / "old", given)
    with TunnelService(
        certificate=given / "cert.pem", private_key=given / "key.pem", on_event=events
    ) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
        before = service.ssl_context()
        _put(tmp_path / "new", given, "relay.example")
        service.reload_certificate()
        with monkeypatch.context() as patch:
            patch.setattr(service, "ssl_context", lambda: before)
            with pytest.raises(ssl.SSLError):
                TunnelClient(service, Mode.DESTINATION, tokens.destination_token)
        assert "relay.example" in events.wait(ServiceEventKind.CERTIFICATE_RELOADED).detail
        TunnelClient(service, Mode.DESTINATION, tokens.destination_token).close()
        source.assert_quiet()
        source.close()


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem"])
@pytest.mark.parametrize("how", ["missing", "empty", "other", "pipe", "folder"])
def test_what_cannot_be_used_is_an_error_and_changes_nothing(
    tmp_path: Path, broken: str, how: str
) -> None:
    given = tmp_path / "given"
    _put(tmp_path / "old", given)
    with TunnelService(certificate=given / "cert.pem", private_key=given / "key.pem") as service:
        tokens = service.open_tunnel("t", ["SSH"])
        context = service.ssl_context()
        (given / broken).unlink()
        if how == "empty":
            (given / broken).touch()
        elif how == "pipe":
            os.mkfifo(given / broken)
        elif how == "folder":
            (given / broken).mkdir()
        elif how == "other":
            _put(tmp_path / "other", tmp_path / "elsewhere")
            shutil.copy(tmp_path / "elsewhere" / broken, given / broken)
        with pytest.raises(ConfigError, match=broken):
            service.reload_certificate()
        service.ssl_context = lambda: context  # type: ignore[method-assign]
        TunnelClient(service, Mode.SOURCE, tokens.source_token).close()


def test_a_made_certificate_is_not_taken_anew() -> None:
    with TunnelService() as service, pytest.raises(ConfigError, match="no certificate was given"):
        service.reload_certificate()


def test_an_encrypted_key_is_an_error_and_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    files = ensure_certificate(tmp_path, "127.0.0.1")
    key = serialization.load_pem_private_key(files.private_key.read_bytes(), None)
    files.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    service = TunnelService(certificate=files.certificate, private_key=files.private_key)
    with pytest.raises(ConfigError, match=r"server\.key"):
        service.start()


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/file.*folder"):
        TunnelService(state_dir=tmp_path / "file").start()


def _days_shown(service: TunnelService, context: ssl.SSLContext) -> float:
    """For how many days the certificate is good that a client of this context is shown."""
    with (
        socket.create_connection(("127.0.0.1", service.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        shown = secure.getpeercert()
    assert shown
    return (ssl.cert_time_to_seconds(str(shown["notAfter"])) - time.time()) / 86_400


def test_a_made_certificate_is_made_anew_while_the_service_runs(
    tmp_path: Path, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid_days = tls.VALID_DAYS
    monkeypatch.setattr(service_module, "RENEW_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
    with TunnelService(state_dir=tmp_path, on_event=events) as service:
        trusting = service.ssl_context()
        assert _days_shown(service, trusting) < tls.RENEW_BEFORE_DAYS
        monkeypatch.setattr(tls, "VALID_DAYS", valid_days)
        # Whoever trusts the authority notices nothing.
        eventually(lambda: _days_shown(service, trusting) > tls.RENEW_BEFORE_DAYS)
        assert "until" in events.wait(ServiceEventKind.CERTIFICATE_RELOADED).detail


def test_a_clock_that_is_set_has_a_certificate_looked_at_soon(
    tmp_path: Path, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device makes it in 1970, and hears of the time: it has run out."""
    valid_days, clock = tls.VALID_DAYS, SetClock()
    monkeypatch.setattr(service_module, "CLOCK_SECONDS", 0.02)
    monkeypatch.setattr(service_module, "CLOCK", clock)
    monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
    with TunnelService(state_dir=tmp_path, on_event=events) as service:
        service.open_tunnel("press-4", ["SSH"])  # on its thread, which has looked at the clock
        monkeypatch.setattr(tls, "VALID_DAYS", valid_days)
        clock.steps(3_600.0)
        events.wait(ServiceEventKind.CERTIFICATE_RELOADED)


def test_a_renewal_that_fails_is_told_and_the_service_goes_on(
    tmp_path: Path, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RENEW_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
    with TunnelService(state_dir=tmp_path, on_event=events) as service:
        trusting = service.ssl_context()

        def fail(*_args: object, **_named: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tls, "ensure_certificate", fail)
        detail = events.wait(ServiceEventKind.CERTIFICATE_REFUSED).detail
        assert "No space left on device" in detail
        assert _days_shown(service, trusting) > 0


def _pair(folder: Path) -> bytes:
    """Make a certificate; return it with its key, as one file may have both."""
    files = ensure_certificate(folder, "127.0.0.1")
    return files.certificate.read_bytes() + files.private_key.read_bytes()


def _is_shown(service: TunnelService, pair: bytes) -> bool:
    """Whether a new client is shown the certificate of this pair."""
    shown = ssl.get_server_certificate(("127.0.0.1", service.port), timeout=WAIT_SECONDS)
    return x509.load_pem_x509_certificate(shown.encode()) == x509.load_pem_x509_certificate(pair)


@contextlib.contextmanager
def _writer_once_read(pipe: Path) -> Iterator[BinaryIO]:
    """Wait until somebody reads a pipe, and write to it."""
    opened: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads it
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(opened)

    eventually(is_read, "somebody reads the pipe")
    with os.fdopen(opened[0], "wb", buffering=0) as file:
        yield file


def _replace(path: Path, pair: bytes) -> None:
    aside = path.with_suffix(".new")
    aside.write_bytes(pair)
    aside.rename(path)


class TestAFileWhoseFolderHangs:
    """A pipe is read in its place: who reads it waits until something is written."""

    @pytest.fixture(autouse=True)
    def _pipes_are_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tls, "_pipe_among", lambda _paths: None)
        monkeypatch.setattr("tunnelfleet.runtime.reading.PIPE_SECONDS", 2 * WAIT_SECONDS)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Of the certificate and its key, a file yet."""
        path = tmp_path / "both.pem"
        path.write_bytes(_pair(tmp_path / "old"))
        return path

    @pytest.fixture
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor() as pool:
            yield pool

    @staticmethod
    def _hang(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    @pytest.mark.parametrize("has_tls", [True, False], ids=["tls", "plain"])
    def test_the_relay_goes_on_until_it_is_read(
        self, path: Path, pool: ThreadPoolExecutor, tmp_path: Path, has_tls: bool
    ) -> None:
        new = _pair(tmp_path / "new")
        with TunnelService(tls=has_tls, certificate=path, private_key=path) as service:
            tokens = service.open_tunnel("t", ["SSH"])
            source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
            self._hang(path)
            asked = pool.submit(service.reload_certificate)
            with _writer_once_read(path) as pipe:
                source.assert_quiet()
                assert service.tunnel("t").source_connected
                assert not asked.done()
                pipe.write(new)
            asked.result(WAIT_SECONDS)
            assert not has_tls or _is_shown(service, new)
            source.close()

    def test_the_last_who_asked_has_it(
        self, path: Path, pool: ThreadPoolExecutor, tmp_path: Path, events: EventLog
    ) -> None:
        before, after = _pair(tmp_path / "before"), _pair(tmp_path / "after")
        with TunnelService(certificate=path, private_key=path, on_event=events) as service:
            self._hang(path)
            first = pool.submit(service.reload_certificate)
            with _writer_once_read(path) as pipe:
                _replace(path, after)
                service.reload_certificate()
                assert _is_shown(service, after)
                pipe.write(before)
            first.result(WAIT_SECONDS)
            assert _is_shown(service, after)
            service.open_names()  # behind what the first has had done
            told = [each.kind for each in events.all()]
            assert told.count(ServiceEventKind.CERTIFICATE_RELOADED) == 1

    def test_an_error_of_the_last_does_not_take_it_from_the_first(
        self, path: Path, pool: ThreadPoolExecutor, tmp_path: Path
    ) -> None:
        new = _pair(tmp_path / "new")
        with TunnelService(certificate=path, private_key=path) as service:
            self._hang(path)
            first = pool.submit(service.reload_certificate)
            with _writer_once_read(path) as pipe:
                _replace(path, b"nonsense")
                with pytest.raises(ConfigError, match=r"both\.pem"):
                    service.reload_certificate()
                pipe.write(new)
            first.result(WAIT_SECONDS)
            assert _is_shown(service, new)

    def test_nobody_waits_for_ever_and_what_comes_too_late_is_not_taken(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tls, "READ_SECONDS", 0.05)
        monkeypatch.setattr(tls, "MAX_READERS", 2)
        old = path.read_bytes()
        with TunnelService(certificate=path, private_key=path) as service:
            self._hang(path)
            for _ in range(2):
                with pytest.raises(
                    ConfigError, match=r"both\.pem or its key cannot be read within 0\.05 s"
                ):
                    service.reload_certificate()
            with pytest.raises(ConfigError, match=r"both\.pem is still being read"):
                service.reload_certificate()
            with _writer_once_read(path) as pipe:
                pipe.write(_pair(tmp_path / "late"))
            eventually(lambda: tls.READER_NAME not in {each.name for each in threading.enumerate()})
            assert _is_shown(service, old)
            # And then it is read again.
            monkeypatch.setattr(tls, "READ_SECONDS", WAIT_SECONDS)
            _replace(path, _pair(tmp_path / "new"))
            service.reload_certificate()
            assert not _is_shown(service, old)


class TestWhetherAMadeCertificateIsAgeing:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SetClock:
        clock = SetClock()
        monkeypatch.setattr(service_module, "CLOCK_SECONDS", 0.02)
        monkeypatch.setattr(service_module, "CLOCK", clock)
        return clock

    @pytest.fixture
    def ageing(
        self, tmp_path: Path, events: EventLog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[TunnelService]:
        """A service with a certificate that is to be made anew when the clock is set."""
        del clock
        valid_days = tls.VALID_DAYS
        monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
        with TunnelService(state_dir=tmp_path, on_event=events) as service:
            service.open_tunnel("press-4", ["SSH"])  # on its thread, which has looked at the clock
            monkeypatch.setattr(tls, "VALID_DAYS", valid_days)
            yield service

    def test_no_file_is_read_for_it_on_the_thread_that_relays(
        self, ageing: TunnelService, clock: SetClock, events: EventLog, tmp_path: Path
    ) -> None:
        # Whoever read it as any file would wait for ever.
        (tmp_path / tls.CERTIFICATE_NAME).unlink()
        os.mkfifo(tmp_path / tls.CERTIFICATE_NAME)
        trusting = ageing.ssl_context()
        clock.steps(3_600.0)
        events.wait(ServiceEventKind.CERTIFICATE_RELOADED)
        assert _days_shown(ageing, trusting) > tls.RENEW_BEFORE_DAYS

    def test_one_that_another_service_made_anew_is_taken(
        self, ageing: TunnelService, clock: SetClock, events: EventLog, tmp_path: Path
    ) -> None:
        trusting = ageing.ssl_context()
        made = ensure_certificate(tmp_path, "127.0.0.1", keep_authority=True)
        pem = made.certificate.read_bytes()
        clock.steps(3_600.0)
        events.wait(ServiceEventKind.CERTIFICATE_RELOADED)
        assert made.certificate.read_bytes() == pem
        assert _days_shown(ageing, trusting) > tls.RENEW_BEFORE_DAYS
