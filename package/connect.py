"""`tunnelfleet connect NAME[:SERVICE]`: joins standard input and output to a tunnel of a gateway.

It is made for ssh's ProxyCommand, which starts it for each session: so it imports nothing but the
standard library, and little of that. It asks the private front door of the gateway on this machine,
a Unix socket, with HTTP CONNECT. The bytes are carried as they are; the end of one direction is
carried as the end of that direction. What this module says to its user:

    exit status 0  the connection ended
                1  there is no gateway, it refused, or the connection was cut
                2  it was asked for wrongly
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Mapping, Sequence

ADMIN_SOCKET = "admin.sock"
GATEWAY_VARIABLE = "TUNNELFLEET_GATEWAY"
PROGRAM = "tunnelfleet"

COPY_BYTES = 65_536
MAX_HEAD_BYTES = 16_384
"""The longest head of the gateway's answer."""
_STDIN, _STDOUT = 0, 1
EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2


class ConnectFailed(Exception):  # noqa: N818 - says what happened
    """There is no connection, or no more; the text is for the user.

    Args:
        text: what is wrong, where, and what to do.
        status: the exit status.
    """

    def __init__(self, text: str, status: int = EXIT_FAILURE) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: Sequence[str]) -> int | None:
    """Run the command, if it was asked for in its plain form.

    Args:
        arguments: what follows `connect` on the command line.

    Returns:
        The exit status; None if the whole command line has to look at the arguments.
    """
    plain = _parse(arguments)
    return None if plain is None else connect(*plain)


def _parse(arguments: Sequence[str]) -> tuple[str, str | None] | None:
    names, gateway = [], None
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--gateway" and rest:
            gateway = rest.pop(0)
        elif word.startswith("--gateway="):
            gateway = word.partition("=")[2]
        elif word.startswith("-"):
            return None
        else:
            names.append(word)
    return (names[0], gateway) if len(names) == 1 else None


MAX_TEXT_CHARACTERS = 800


def connect(name: str, gateway: str | None = None) -> int:
    """Join standard input and output to a tunnel, until it ends; returns the exit status.

    Args:
        name: of the tunnel, and of the service: `press-4` or `press-4:SSH`.
        gateway: where its admin socket is, as `unix:PATH`; None for what the environment says.
    """
    try:
        if not name:
            raise ConnectFailed("name a tunnel, as NAME or NAME:SERVICE", EXIT_USAGE)
        with _open(connect_socket(gateway, os.environ), name) as sock:
            _carry(sock)
    except ConnectFailed as error:
        text = "".join(c if c.isprintable() else " " for c in str(error))[:MAX_TEXT_CHARACTERS]
        os.write(2, f"{PROGRAM}: {text}\n".encode(errors="replace"))
        return error.status
    except KeyboardInterrupt:
        return 130
    return EXIT_OK


# -- where the gateway is


CONNECT_SOCKET = "connect.sock"
"""The name of the private door's socket, beside the admin socket `admin.sock` of a gateway."""
ADMIN_SOCKET = "admin.sock"


def connect_socket(gateway: str | None, environ: Mapping[str, str]) -> str:
    """Return the path of a gateway's private front door.

    Raises:
        ConnectFailed: the gateway is none on this machine.
    """
    place = gateway or environ.get(GATEWAY_VARIABLE) or f"unix:{_default_folder(environ)}/"
    path = place.removeprefix("unix:")
    if (path == place and "/" not in place) or "://" in place:
        raise ConnectFailed(
            f"connect needs a gateway on this machine, as unix:PATH, and not {place}; from "
            "elsewhere use its front door: ssh -o ProxyCommand='nc -X 5 -x HOST:PORT %h %p'",
            EXIT_USAGE,
        )
    folder, slash, file = path.rpartition("/")
    own = "" if file in ("", ADMIN_SOCKET, CONNECT_SOCKET) else f"{file.removesuffix('.sock')}."
    return f"{folder}{slash}{own}{CONNECT_SOCKET}"


def _default_folder(environ: Mapping[str, str]) -> str:
    """The same as `tunnelfleet.runtime.gateway.config.paths.runtime_folder`, which loads more."""
    given = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    xdg = environ.get("XDG_RUNTIME_DIR")
    if xdg:
        return f"{xdg}/{PROGRAM}"
    uid = os.getuid()
    if uid == 0:
        return f"/run/{PROGRAM}"
    # Anybody could have made the folder: whoever connects looks whose it is.
    open_to_all = "/tmp"  # noqa: S108  # nosec B108
    return f"{open_to_all}/{PROGRAM}-{uid}"


# -- the handshake


_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _open(path: str, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.connect(path)
        except OSError as error:
            raise ConnectFailed(_not_reached(path, error)) from None
        _check_owner(sock, path)
        target = "".join(chr(c) if c in _UNRESERVED else f"%{c:02X}" for c in os.fsencode(name))
        try:
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {PROGRAM}\r\n\r\n".encode())
            status, reason = _read_answer(sock)
        except OSError:
            status, reason = 0, ""
        if status != 200:
            raise ConnectFailed(reason or f"the gateway at {path} closed without an answer")
    except BaseException:
        sock.close()
        raise
    return sock


def _check_owner(sock: socket.socket, path: str) -> None:
    """In /tmp anybody could listen in the place of the gateway."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    owner = int.from_bytes(credentials[4:8], sys.byteorder)
    is_open = path.startswith("/tmp/")  # noqa: S108  # nosec B108
    if is_open and owner not in (0, os.getuid()):
        raise ConnectFailed(f"what listens at {path} belongs to another user; name --gateway")


def _read_answer(sock: socket.socket) -> tuple[int, str]:
    """Return the status, and the text of a refusal."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n") and len(head) < MAX_HEAD_BYTES:
        # Not a byte more: what follows is the application's.
        byte = sock.recv(1)
        if not byte:
            break
        head += byte
    version, _blank, rest = head.decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        return 0, ""
    status = int(rest[:3])
    body = bytearray()
    while status != 200 and len(body) < MAX_HEAD_BYTES:
        data = sock.recv(4_096)
        if not data:
            break
        body += data
    return status, body.decode(errors="replace").strip()


def _not_reached(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return (
            f"no access to the gateway at {path}: become its user, or let a group in with "
            "admin_group and admin_mode in [gateway]"
        )
    what = {
        "FileNotFoundError": "there is no such socket",
        "ConnectionRefusedError": "the socket is there, and nobody listens",
    }.get(type(error).__name__, error.strerror or str(error))
    how = "start one with: tunnelfleet up fleet.toml, or name it with --gateway unix:PATH"
    return f"no gateway answers at {path}: {what}; {how}"


# -- the bytes


def _carry(sock: socket.socket) -> None:
    """Copy both ways, each until its own end.

    Raises:
        ConnectFailed: the connection was cut.
    """
    ended, end = os.pipe()
    threading.Thread(target=_send, args=(sock, end), daemon=True).start()
    try:
        _receive(sock)
    except BrokenPipeError:
        raise ConnectFailed("nobody reads standard output any more") from None
    except OSError as error:
        raise ConnectFailed(f"the connection was cut: {error.strerror}") from None
    # The other side sends no more. It may still take something, unless it has gone altogether; and
    # whoever sits at a terminal has nothing more to say.
    _close_stdout()
    if not os.isatty(_STDIN):
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(sock, 0)
        poll.poll()


def _receive(sock: socket.socket) -> None:
    while data := sock.recv(COPY_BYTES):
        view = memoryview(data)
        while view:
            view = view[os.write(_STDOUT, view) :]


def _close_stdout() -> None:
    """Close standard output: its reader sees the end, and what is written at exit goes nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)


def _send(sock: socket.socket, end: int) -> None:
    """Send standard input, on a thread of its own that may wait while the other direction flows."""
    try:
        while data := os.read(_STDIN, COPY_BYTES):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        # The connection is over, which the other direction sees too.
        pass
    finally:
        os.close(end)
