"""The certificate a service makes: whom it names, who trusts it, when it is made anew."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tunnelfleet.runtime.service import files, tls
from tunnelfleet.runtime.service.tls import ensure_certificate

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
    monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
    ensure_certificate(tmp_path, "127.0.0.1")
    monkeypatch.undo()
    files = ensure_certificate(tmp_path, "127.0.0.1")
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=tls.RENEW_BEFORE_DAYS)


# what does not match


def _check(folder: Path, host: str = "127.0.0.1") -> None:
    """A client that trusts the authority can connect, by file and by folder."""
    files = ensure_certificate(folder, host)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.private_key)
    for trust in ({"cafile": files.ca}, {"capath": folder}):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(**trust)  # type: ignore[arg-type]
        _shake_hands(server, client, "127.0.0.1")


@pytest.mark.parametrize("keep", [False, True], ids=["forgotten", "kept"])
@pytest.mark.parametrize("crash_after", range(6))
def test_a_crash_between_two_files_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_after: int, keep: bool
) -> None:
    class Killed(BaseException):
        pass

    written: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        if len(written) >= crash_after:
            (path.parent / f".{path.name}.0123456789abcdef.new").write_bytes(content)
            raise Killed
        written.append(path)
        files.write_file(path, content)

    ensure_certificate(tmp_path, "127.0.0.1", keep_authority=keep)
    (tmp_path / "ca.pem").write_bytes(b"")
    monkeypatch.setattr(tls, "write_file", write)
    with contextlib.suppress(Killed):
        ensure_certificate(tmp_path, "127.0.0.1", keep_authority=keep)
    monkeypatch.undo()
    _check(tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")]


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server.key", "ca.key"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"other"], ids=["empty", "text", "other"])
def test_what_does_not_match_is_made_anew(tmp_path: Path, name: str, content: bytes) -> None:
    folder, other = tmp_path / "a", tmp_path / "b"
    ensure_certificate(folder, "127.0.0.1", keep_authority=True)
    ensure_certificate(other, "127.0.0.1", keep_authority=True)
    (folder / name).write_bytes((other / name).read_bytes() if content == b"other" else content)
    ensure_certificate(folder, "127.0.0.1", keep_authority=True)
    _check(folder)
    # Whatever it was: from now on a new name is signed by the authority that is there.
    ca = (folder / "ca.pem").read_bytes()
    if name != "ca.key":
        ensure_certificate(folder, "relay.example", keep_authority=True)
        assert (folder / "ca.pem").read_bytes() == ca


def test_a_kept_authority_signs_another_name_and_the_next_year(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
    first = ensure_certificate(tmp_path, "127.0.0.1", keep_authority=True)
    ca, certificate = first.ca.read_bytes(), first.certificate.read_bytes()
    monkeypatch.undo()
    ensure_certificate(tmp_path, "127.0.0.1", ["relay.example"], keep_authority=True)
    assert (first.ca.read_bytes() == ca, first.certificate.read_bytes() == certificate) == (
        True,
        False,
    )
    assert "relay.example" in _names(first.certificate)
    _check(tmp_path)


def test_an_authority_that_ends_soon_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "AUTHORITY_VALID_DAYS", tls.RENEW_BEFORE_DAYS - 1)
    ca = ensure_certificate(tmp_path, "127.0.0.1", keep_authority=True).ca.read_bytes()
    monkeypatch.undo()
    assert ensure_certificate(tmp_path, "127.0.0.1", keep_authority=True).ca.read_bytes() != ca
    _check(tmp_path)


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server.key", "hash"])
@pytest.mark.parametrize("to", ["file", "nowhere", "itself"])
def test_links_are_replaced_and_not_followed(tmp_path: Path, name: str, to: str) -> None:
    folder, target = tmp_path / "state", tmp_path / "target"
    files = ensure_certificate(folder, "127.0.0.1", keep_authority=True)
    path = next(folder.glob("*.0")) if name == "hash" else folder / name
    if to == "file":
        target.write_bytes(path.read_bytes())
    before = target.read_bytes() if to == "file" else None
    path.unlink()
    path.symlink_to(path if to == "itself" else target)
    ensure_certificate(folder, "127.0.0.1", keep_authority=True)
    assert not path.is_symlink()
    assert (target.read_bytes() if to == "file" else None) == before
    assert target.exists() is (to == "file")
    assert files.ca.is_file()
    _check(folder)


def test_all_that_is_made_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    former = os.umask(0)
    try:
        ensure_certificate(folder, "127.0.0.1", keep_authority=True)
    finally:
        os.umask(former)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"ca.pem", "ca.key", "server.pem", "server.key"} < set(modes)


def test_a_key_that_others_could_read_is_made_private(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    files.private_key.chmod(0o644)
    ensure_certificate(tmp_path, "127.0.0.1")
    assert stat.S_IMODE(files.private_key.stat().st_mode) == 0o600
    assert str(files.private_key) in caplog.text


def test_a_pipe_in_the_place_of_a_file_holds_up_nobody(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    files.private_key.unlink()
    os.mkfifo(files.private_key)
    ensure_certificate(tmp_path, "127.0.0.1")
    assert files.private_key.is_file()
