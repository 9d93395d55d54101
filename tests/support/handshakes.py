"""Handshakes of TLS over a pair of sockets, and contexts that speak nothing newer than TLS 1.1."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.service.tls import server_context

if TYPE_CHECKING:
    from tunnelfleet.runtime.service.tls import CertificateFiles


def make_old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a context speak TLS 1.1 and nothing newer; such a one warns that it is deprecated."""
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def shake_hands(
    files: CertificateFiles, client: ssl.SSLContext, name: str, server: ssl.SSLContext | None = None
) -> str | None:
    """Shake hands with a server that has the certificate; return the TLS version."""
    context = server or server_context(files.own())
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_SECONDS)
    theirs.settimeout(WAIT_SECONDS)

    def serve() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True) as secure:
                secure.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secure:
            return secure.version()
    finally:
        ours.close()
        thread.join(WAIT_SECONDS)
