"""Whom a client trusts, and what is said when that cannot be read."""

from __future__ import annotations

import concurrent.futures
import os
import re
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.handshakes import make_old, shake_hands
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TunnelRuntime, make_ssl_context
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.service.tls import ensure_certificate, server_context
from tunnelfleet.runtime.tls import MAX_CA_BYTES, load_own_certificate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tunnelfleet.runtime.service.tls import CertificateFiles


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return ensure_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


def test_an_authority_in_a_file_is_trusted(files: CertificateFiles) -> None:
    assert shake_hands(files, make_ssl_context(files.ca), "127.0.0.1") == "TLSv1.3"


def test_an_authority_in_a_folder_is_trusted(files: CertificateFiles) -> None:
    assert shake_hands(files, make_ssl_context(ca_dir=files.ca.parent), "127.0.0.1")


def test_another_authority_is_not_trusted(files: CertificateFiles, tmp_path: Path) -> None:
    other = ensure_certificate(tmp_path, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, make_ssl_context(other.ca), "127.0.0.1")


def replace_file(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".new")
    aside.write_bytes(content)
    aside.replace(path)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_of_authorities_that_was_replaced_is_followed(
    files: CertificateFiles, tmp_path: Path, *, in_place: bool
) -> None:
    """The certificate of a service that runs is of another authority from now on."""
    other = ensure_certificate(tmp_path / "other", "127.0.0.1")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(other.ca.read_bytes())
    context = make_ssl_context(ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, context, "127.0.0.1")
    if in_place:
        ca.write_bytes(files.ca.read_bytes() + b"\n")
    else:
        replace_file(ca, files.ca.read_bytes())
    assert shake_hands(files, context, "127.0.0.1")
    # Those that stand behind the old one are replaced one after another.
    assert shake_hands(other, context, "127.0.0.1")


def test_a_link_to_authorities_that_is_swapped_is_followed(
    files: CertificateFiles, tmp_path: Path
) -> None:
    """As Kubernetes gives a secret another content."""
    ensure_certificate(tmp_path / "1", "127.0.0.1")
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "ca.pem").symlink_to("..data/ca.pem")
    context = make_ssl_context(tmp_path / "ca.pem")
    (tmp_path / "..new").symlink_to(files.ca.parent)
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert shake_hands(files, context, "127.0.0.1")


def absent(path: Path) -> None:
    path.unlink()


def no_certificate(path: Path) -> None:
    path.write_text("nothing")


def a_pipe(path: Path) -> None:
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    pipe.replace(path)


def too_large(path: Path) -> None:
    os.truncate(path, MAX_CA_BYTES + 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (absent, ""),
        (a_pipe, ""),
        (no_certificate, "it holds no certificate"),
        (too_large, "more than 16777216 bytes"),
    ],
)
def test_authorities_that_cannot_be_used_leave_what_was_there(
    files: CertificateFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path], None],
    said: str,
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(files.ca.read_bytes())
    context = make_ssl_context(ca)
    change(ca)
    for _ in range(3):
        assert shake_hands(files, context, "127.0.0.1")
    lines = [each.getMessage() for each in caplog.records]
    assert len(lines) == (1 if said else 0)
    assert all(said in line and str(ca) in line for line in lines)


def test_by_default_the_system_s_authorities_are_trusted_and_no_other(
    files: CertificateFiles,
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, make_ssl_context(), "127.0.0.1")


def test_the_host_is_verified(files: CertificateFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for|mismatch"):
        shake_hands(files, make_ssl_context(files.ca), "other.example")


def test_without_verification_anybody_is_trusted(files: CertificateFiles) -> None:
    assert shake_hands(files, make_ssl_context(verify=False), "other.example")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_before_1_2_is_refused(files: CertificateFiles, verify: bool) -> None:
    old = make_old(server_context(files.own()))
    client = make_ssl_context(files.ca, verify=verify)
    assert client.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(files, client, "127.0.0.1", old)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    with pytest.raises(ConfigError, match=r"none\.pem.*No such file"):
        make_ssl_context(path)


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.pem"
    path.write_text("nothing in here")
    with pytest.raises(ConfigError, match=r"empty\.pem.*PEM"):
        make_ssl_context(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none"):
        make_ssl_context(ca_dir=tmp_path / "none")


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make_ssl_context(tmp_path)


def test_a_key_with_a_password_is_told_and_none_is_asked_for(
    files: CertificateFiles, tmp_path: Path
) -> None:
    """Whoever starts a server has no terminal, or does not look at it."""
    key = serialization.load_pem_private_key(files.private_key.read_bytes(), None)
    closed = tmp_path / "closed.key"
    closed.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    options = AdminOptions(port=0, certificate=files.certificate, private_key=closed)
    says = f"{files.certificate} and {closed} are no certificate and its key: give PEM files, the"
    with (
        TunnelRuntime() as runtime,
        pytest.raises(ConfigError, match=re.escape(says)),
        AdminServer(runtime, options),
    ):
        raise AssertionError("it was started")


@pytest.mark.parametrize("is_one_file", [False, True])
def test_one_s_own_certificate_is_read_once(
    files: CertificateFiles, tmp_path: Path, is_one_file: bool
) -> None:
    """Each may be a pipe: its writer would be cut by a second reader, or wait for none."""
    contents = [files.certificate.read_bytes(), files.private_key.read_bytes()]
    if is_one_file:
        contents = [b"".join(contents)]
    pipes = [tmp_path / str(number) for number in range(len(contents))]
    with concurrent.futures.ThreadPoolExecutor() as writers:
        for pipe, content in zip(pipes, contents, strict=True):
            os.mkfifo(pipe)
            writers.submit(pipe.write_bytes, content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_own_certificate(context, pipes[0], pipes[-1])
    assert shake_hands(files, make_ssl_context(files.ca), "127.0.0.1", context) == "TLSv1.3"


def test_a_file_without_an_end_is_no_certificate(files: CertificateFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ConfigError, match="/dev/zero has more than"):
        load_own_certificate(context, "/dev/zero", files.private_key)
