"""The certificate a service makes: whom it names, who trusts it, when it is made anew."""

from __future__ import annotations

import datetime
import ssl
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tunnelfleet.runtime.service import certificates
from tunnelfleet.runtime.service.certificates import ensure_certificate

if TYPE_CHECKING:
    from pathlib import Path


def _names(path: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_names_loopback_and_the_host(tmp_path: Path) -> None:
    assert _names(ensure_certificate(tmp_path / "a", "127.0.0.1").certificate) == [
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    assert "relay.example" in _names(
        ensure_certificate(tmp_path / "b", "relay.example").certificate
    )
    assert "192.0.2.7" in _names(ensure_certificate(tmp_path / "c", "192.0.2.7").certificate)
    assert "0.0.0.0" not in _names(ensure_certificate(tmp_path / "d", "0.0.0.0").certificate)


def test_only_the_owner_reads_the_key(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    assert stat.S_IMODE(files.private_key.stat().st_mode) == 0o600


def test_the_key_of_the_authority_is_not_kept(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    keys = [p for p in tmp_path.iterdir() if b"PRIVATE KEY" in p.read_bytes()]
    assert keys == [files.private_key]


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_openssl_verifies_it(tmp_path: Path, as_folder: bool) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.private_key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    if as_folder:
        client.load_verify_locations(capath=tmp_path)
    else:
        client.load_verify_locations(files.ca)
    for name in ("127.0.0.1", "localhost", "::1"):
        _shake_hands(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(server, client, "other.example")


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(down, up, server_hostname=name)
    there = server.wrap_bio(up, down, server_side=True)
    done = [False, False]
    for _ in range(4):
        for index, side in enumerate((here, there)):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done[index] = True
    assert done == [True, True]


def test_is_kept_while_it_is_good(tmp_path: Path) -> None:
    first = ensure_certificate(tmp_path, "127.0.0.1").certificate.read_bytes()
    assert ensure_certificate(tmp_path, "localhost").certificate.read_bytes() == first


def test_is_made_anew_for_another_host(tmp_path: Path) -> None:
    first = ensure_certificate(tmp_path, "127.0.0.1").certificate.read_bytes()
    files = ensure_certificate(tmp_path, "relay.example")
    assert files.certificate.read_bytes() != first


@pytest.mark.parametrize("damaged", ["ca.pem", "server.pem", "server.key"])
def test_is_made_anew_when_a_file_is_missing(tmp_path: Path, damaged: str) -> None:
    first = ensure_certificate(tmp_path, "127.0.0.1").certificate.read_bytes()
    (tmp_path / damaged).unlink()
    files = ensure_certificate(tmp_path, "127.0.0.1")
    assert files.certificate.read_bytes() != first
    assert files.ca.is_file()


def test_is_made_anew_when_it_is_no_certificate(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    files.certificate.write_text("nonsense")
    assert _names(ensure_certificate(tmp_path, "127.0.0.1").certificate)


def test_is_made_anew_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "VALID_DAYS", certificates.RENEW_BEFORE_DAYS - 1)
    ensure_certificate(tmp_path, "127.0.0.1")
    monkeypatch.undo()
    files = ensure_certificate(tmp_path, "127.0.0.1")
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=certificates.RENEW_BEFORE_DAYS)
