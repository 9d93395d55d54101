"""Under which names and addresses clients reach a service, and what a certificate says of them.

Owns what stands in a made certificate and what is printed as endpoint, so that the two cannot
differ. It looks at this machine's interfaces; it never asks a name server.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import ipaddress
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from tunnelfleet.actors.addresses import is_loopback, parse_ip, without_brackets
from tunnelfleet.proto import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
MAX_NAMES: Final = 100
MAX_LAN_ADDRESSES: Final = 64

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_MAX_DNS_NAME_CHARACTERS: Final = 253

_SIOCGIFCONF: Final = 0x8912
_INTERFACE_BYTES: Final = struct.calcsize("16s24x")
_GLOBAL_SCOPE: Final = "00"
# Of <linux/if_addr.h>: addresses that are made for a while, or not usable any more or yet.
_PASSING_FLAGS: Final = 0x01 | 0x08 | 0x20 | 0x40
# For documentation (RFC 5737): nothing is ever sent there, the kernel just chooses an interface.
_SOMEWHERE_ELSE: Final = ("192.0.2.1", 9)


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names for a certificate without duplicates, addresses in their usual form.

    Raises:
        ConfigError: one is neither an address nor a name of DNS, or there are too many.
    """
    found = tuple(dict.fromkeys(_checked(name) for name in names))
    if len(found) > MAX_NAMES:
        raise ConfigError(f"a certificate has at most {MAX_NAMES} names here, not {len(found)}")
    return found


def _checked(name: str) -> str:
    address = parse_ip(without_brackets(name))
    if address is not None:
        if address.is_unspecified:
            raise ConfigError(f"{name} is no address that a client connects to; name one that is")
        return str(address)
    # What consists of digits and dots was meant to be an address.
    is_name = _DNS_NAME.fullmatch(name) and not name.rsplit(".", 1)[-1].isdecimal()
    if not is_name or len(name) > _MAX_DNS_NAME_CHARACTERS:
        raise ConfigError(
            f"{printable(name)!r} is neither a host name nor an address; write one without a port, "
            "such as relay.example.com or 192.168.1.5 (a name with other letters as xn--...)"
        )
    return name.lower()


def is_wildcard(host: str) -> bool:
    """Say whether a service that listens there listens on every address."""
    address = parse_ip(host)
    return address is not None and address.is_unspecified


def certificate_names(host: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return what a certificate for a service on `host` is for; `names` are added to that."""
    hosts = [host]
    if is_wildcard(host):
        own = socket.gethostname().lower()
        hosts = [own] if _DNS_NAME.fullmatch(own) else []
        hosts += lan_addresses(host)
    return tuple(dict.fromkeys((*LOOPBACK_NAMES, *hosts, *names)))


def reachable_hosts(
    host: str, names: Sequence[str], certificate: x509.Certificate | None
) -> tuple[str, ...]:
    """Return where clients can connect to, the best first; all of it is in the certificate.

    Args:
        host: what the service listens on.
        names: what it was told to be called.
        certificate: the one it shows; None for one that it makes, or without TLS.
    """
    named = [name for name in names if "*" not in name]
    if is_wildcard(host):
        loopback = "::1" if ":" in host else "127.0.0.1"
        hosts = [*named, *lan_addresses(host), loopback]
    else:
        hosts = [host, *named]
    # Who listens on loopback with a certificate for elsewhere tries something, and means loopback.
    if certificate is not None and not is_loopback(host):
        hosts = _covered(hosts, names_of(certificate))
    return tuple(dict.fromkeys(hosts)) or (host,)


def _covered(hosts: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the hosts that a certificate is for; where it is for none, its own names."""
    covered = [each for each in hosts if covers(names, each)]
    return covered or [name for name in names if "*" not in name]


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    kinds = (x509.DNSName, x509.IPAddress)
    return tuple(printable(str(name.value)).lower() for name in names if isinstance(name, kinds))


def covers(names: Iterable[str], host: str) -> bool:
    """Say whether a client that connects to `host` finds it among the names of a certificate."""
    host = host.lower()
    address = parse_ip(host)
    if address is not None:
        return str(address) in names
    _first, _dot, rest = host.partition(".")
    return host in (known := set(names)) or (bool(rest) and f"*.{rest}" in known)


def lan_addresses(host: str) -> tuple[str, ...]:
    """Return this machine's addresses besides loopback, the one of its default route first.

    Args:
        host: a wildcard address; that of IPv4 leaves those of IPv6 out.
    """
    found = [*_preferred(), *_ipv4_addresses()]
    if ":" in host:
        found += _ipv6_addresses()
    wanted = [
        text
        for text in dict.fromkeys(found)
        if (address := parse_ip(text)) is not None
        and not (address.is_loopback or address.is_link_local or address.is_unspecified)
    ]
    return tuple(wanted[:MAX_LAN_ADDRESSES])


def _preferred() -> Iterator[str]:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(_SOMEWHERE_ELSE)
        yield str(sock.getsockname()[0])


def _ipv4_addresses() -> list[str]:
    interfaces = array.array("B", bytes(_INTERFACE_BYTES * 4 * MAX_LAN_ADDRESSES))
    where, size = interfaces.buffer_info()
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # struct ifconf { int ifc_len; char *ifc_buf; } of netdevice(7).
        answer = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iP", size, where))
        used = min(struct.unpack("iP", answer)[0], size)
        return [
            socket.inet_ntoa(interfaces[start + 20 : start + 24].tobytes())
            for start in range(0, used, _INTERFACE_BYTES)
        ]
    return []


def _ipv6_addresses() -> list[str]:
    """Return the lasting global addresses; temporary ones would soon be wrong in a certificate."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            digits, _index, _length, scope, flags, _device = line.split()
            if scope == _GLOBAL_SCOPE and not int(flags, 16) & _PASSING_FLAGS:
                found.append(str(ipaddress.IPv6Address(int(digits, 16))))
    return found
