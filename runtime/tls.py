"""TLS for tunnels: one context for all of them.

Owns how a client trusts the service: the system's authorities, a file or a folder of them, or, on
demand, anybody. It opens no connection. TLS 1.2 or newer (docs/protocol.md section 1).
"""

from __future__ import annotations

import os
import ssl

from tunnelfleet.proto import ConfigError


def make_ssl_context(
    ca_file: str | os.PathLike[str] | None = None,
    ca_dir: str | os.PathLike[str] | None = None,
    *,
    verify: bool = True,
) -> ssl.SSLContext:
    """Return a context for connecting to the tunneling service.

    Args:
        ca_file: PEM file of the authorities to trust; with neither file nor folder, the system's.
        ca_dir: folder of PEM files named by hash (`openssl rehash`).
        verify: False accepts any certificate for any host: for tests only.

    Raises:
        ConfigError: the file or folder cannot be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None and ca_dir is None:
        context.load_default_certs()
        return context
    if ca_dir is not None and not os.path.isdir(ca_dir):
        raise ConfigError(f"cannot read the folder of CA certificates {ca_dir}: no such folder")
    try:
        context.load_verify_locations(cafile=ca_file, capath=ca_dir)
    except ssl.SSLError:
        raise ConfigError(f"{ca_file} holds no certificate: give a PEM file") from None
    except OSError as error:
        raise ConfigError(
            f"cannot read the CA certificates {ca_file}: {error.strerror or error}"
        ) from None
    return context
