"""`tunnelfleet door-user`: a line for the file of a front door's users."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash, check_user_name

__all__ = ["door_user_command"]


def door_user_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the user is called.")],
) -> None:
    """Ask for a password, and print the line of the user for door_users_file.

    Without a terminal the password is the first line of standard input. The password itself is
    nowhere in the line.
    """
    check_user_name(name)
    typer.echo(f"{name}:{PasswordHash.make(_password(name)).text()}")


def _password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("The same again: ") != password:
        raise ConfigError("the two passwords differ; run it again")
    return password
