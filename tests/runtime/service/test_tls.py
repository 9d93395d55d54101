"""The service's TLS: a given certificate taken anew, a made one, and errors that say what to do."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.clocks import SetClock
from tests.support.service_client import EventLog, TunnelClient
from tests.support.waiting import eventually
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import ServiceEventKind, TunnelService, tls
from tunnelfleet.runtime.service import service as service_module
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
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
