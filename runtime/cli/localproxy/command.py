"""`tunnelfleet localproxy`: one tunnel, with the options of AWS's localproxy.

Owns the options and what each says in `--help`, and keeps tokens out of the list of processes. What
the options mean together is in `config`. Where it differs from localproxy, on purpose, is in
docs/localproxy.md.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK
from tunnelfleet.runtime.cli.output import outputs
from tunnelfleet.version import version_line

from .abbreviations import AbbreviatingCommand
from .config import PlanBuilder
from .mappings import DEFAULT_DIRECTORY, FoundMappings, parse_files, read_directory, read_text
from .options import LOCALPROXY_OPTIONS, collect, parse_config
from .output import Reporter, configure_logging
from .run import Localproxy
from .settings import default_settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Plan
    from .options import Given


_STAT = Path("/proc/self/stat")
_ARG_START, _ARG_END = 47, 48  # proc(5) numbers them 48 and 49, from 1
_FILLER = b"x"


def hide_arguments(*secrets: str) -> bool:
    """Overwrite `secrets` wherever they stand in this process's command line.

    Args:
        secrets: texts as they were given on the command line; empty ones are skipped.

    Returns:
        True when every one of them was found and overwritten.
    """
    try:
        start, end = _argument_area(_STAT.read_text())
    except (OSError, ValueError, IndexError):
        return False
    wanted = [secret.encode() for secret in secrets if secret]
    if not start < end:
        return not wanted
    found = [_overwrite(start, end, secret) for secret in wanted]
    return all(found)


def _argument_area(stat: str) -> tuple[int, int]:
    # The second field is the program's name in parentheses and may hold anything, even spaces and
    # parentheses.
    name, _, rest = stat.rpartition(")")
    fields = [name, "", *rest.split()]
    return int(fields[_ARG_START]), int(fields[_ARG_END])


def _overwrite(start: int, end: int, secret: bytes) -> bool:
    area = ctypes.string_at(start, end - start)
    at = area.find(secret)
    found = at >= 0
    while at >= 0:
        ctypes.memmove(start + at, _FILLER * len(secret), len(secret))
        at = area.find(secret, at + len(secret))
    return found


class LocalproxyCommand(AbbreviatingCommand):
    """The command line, which takes shortened options as localproxy does."""

    FIRST = LOCALPROXY_OPTIONS


def localproxy_command(
    access_token: Annotated[
        str | None,
        typer.Option(
            "--access-token",
            "-t",
            metavar="TOKEN",
            help="Access token of this end; the environment hides it. [AWSIOT_TUNNEL_ACCESS_TOKEN]",
        ),
    ] = None,
    proxy_endpoint: Annotated[
        str | None,
        typer.Option(
            "--proxy-endpoint",
            "-e",
            metavar="HOST[:PORT]",
            help="The tunneling service; also a ws:// or wss:// URL. [AWSIOT_TUNNEL_ENDPOINT]",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            "-r",
            metavar="REGION",
            help="AWS region of the tunnel; not together with -e. [AWSIOT_TUNNEL_REGION]",
        ),
    ] = None,
    source_listen_port: Annotated[
        str | None,
        typer.Option(
            "--source-listen-port",
            "-s",
            metavar="MAPPING",
            help="Be the source; where to listen: SSH=5555,HTTP=8080 or 5555.",
        ),
    ] = None,
    destination_app: Annotated[
        str | None,
        typer.Option(
            "--destination-app",
            "-d",
            metavar="MAPPING",
            help="Be the destination; what to connect to: SSH=host:22,APP=/run/app.sock or 22.",
        ),
    ] = None,
    local_bind_address: Annotated[
        str | None,
        typer.Option(
            "--local-bind-address",
            "-b",
            metavar="ADDRESS",
            help="Source: listen on it (127.0.0.1). Destination: connect from it.",
        ),
    ] = None,
    capath: Annotated[
        str | None,
        typer.Option(
            "--capath",
            "-c",
            metavar="PATH",
            help="More certificate authorities: a directory or a PEM file.",
        ),
    ] = None,
    no_ssl_host_verify: Annotated[
        bool,
        typer.Option(
            "--no-ssl-host-verify",
            "-k",
            help="Do not check the service's certificate. Not for production.",
        ),
    ] = False,
    verbose: Annotated[
        str | None,
        typer.Option(
            "--verbose",
            "-v",
            metavar="LEVEL",
            help="0 off, 1 fatal, 2 error, 3 warning, 4 info (default), 5 debug, 6 trace.",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "-m",
            metavar="MODE",
            help="source (src) or destination (dst). -m source alone picks free ports.",
        ),
    ] = None,
    destination_client_type: Annotated[
        str | None,
        typer.Option(
            "--destination-client-type",
            "-y",
            metavar="V1|V2|V3",
            help="What the destination speaks (V3).",
        ),
    ] = None,
    client_token: Annotated[
        str | None,
        typer.Option(
            "--client-token",
            "-i",
            metavar="TOKEN",
            help="Client token; generated when not given. [AWSIOT_TUNNEL_CLIENT_TOKEN]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Read options from it, as NAME = VALUE lines; the command line wins.",
        ),
    ] = None,
    config_dir: Annotated[
        str | None,
        typer.Option(
            "--config-dir",
            metavar="DIR",
            help="Read mappings from its files, as SSH = 22 lines (without -s and -d: ./config).",
        ),
    ] = None,
    settings_json: Annotated[
        str | None,
        typer.Option("--settings-json", metavar="FILE", help="Read fine-grained settings from it."),
    ] = None,
    export_default_settings: Annotated[
        Path | None,
        typer.Option(
            "--export-default-settings",
            metavar="FILE",
            help="Write the default settings to it and exit.",
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth",
            metavar="RATE",
            help="Pace what is sent: 800kbit/s, 100kB/s, or bytes a second.",
        ),
    ] = None,
    payload_bytes: Annotated[
        str | None,
        typer.Option(
            "--payload-bytes",
            metavar="N",
            help="Largest payload of a message (64512); 16384 suits a localproxy on a fast link.",
        ),
    ] = None,
    no_marks: Annotated[
        bool,
        typer.Option(
            "--no-marks", help="Do not tell a cut connection from an ended one by `ignorable`."
        ),
    ] = False,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin", metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz there."
        ),
    ] = None,
    admin_open: Annotated[
        bool, typer.Option("--admin-open", help="Let --admin listen beyond this machine.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write each event as a JSON object a line.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.")
    ] = False,
) -> int:
    """Run one tunnel, with the options of AWS's localproxy.

    The web proxy is taken from HTTPS_PROXY or ALL_PROXY, except for hosts in NO_PROXY. A signal
    (Ctrl-C, SIGTERM) sends what was read, closes and exits with status 0; a second one exits at
    once.
    """
    if version:
        typer.echo(version_line())
        return EXIT_OK
    if export_default_settings is not None:
        export_default_settings.write_text(default_settings())
        return EXIT_OK
    flags = {
        "access-token": access_token,
        "client-token": client_token,
        "proxy-endpoint": proxy_endpoint,
        "region": region,
        "source-listen-port": source_listen_port,
        "destination-app": destination_app,
        "local-bind-address": local_bind_address,
        "capath": capath,
        "no-ssl-host-verify": "true" if no_ssl_host_verify else None,
        "verbose": verbose,
        "mode": mode,
        "destination-client-type": destination_client_type,
        "config-dir": config_dir,
        "settings-json": settings_json,
        "bandwidth": bandwidth,
        "payload-bytes": payload_bytes,
        "admin": admin,
        "no-marks": "true" if no_marks else None,
        "admin-open": "true" if admin_open else None,
    }
    hide_arguments(access_token or "", client_token or "")
    plan = make_plan(flags, config, os.environ)
    with outputs(as_json=as_json, goes_on="the tunnel") as (out, err):
        configure_logging(plan.verbosity, err.as_text())
        reporter = Reporter(
            out.as_text(), as_json=as_json, verbosity=plan.verbosity, err=err.as_text()
        )
        return Localproxy(plan, reporter).run()


def make_plan(
    flags: Mapping[str, str | None], config: Path | None, environ: Mapping[str, str]
) -> Plan:
    """Read the files that the options name and return what to run.

    Raises:
        ConfigError: an option or a file is wrong.
    """
    file, notes = ({}, []) if config is None else parse_config(read_text(config), str(config))
    given = collect(flags, file, environ)
    settings_file = given.get("settings-json")
    settings = None
    if settings_file is not None:
        settings = parse_settings(read_text(Path(settings_file.text)), settings_file.text)
    found = _read_mappings(given)
    plan = PlanBuilder(given, found.addresses, settings, environ).plan()
    return replace(
        plan,
        warnings=(*found.warnings, *plan.warnings),
        notes=(*notes, *found.notes, *plan.notes),
    )


def _read_mappings(given: Mapping[str, Given]) -> FoundMappings:
    directory = given.get("config-dir")
    if directory is not None:
        try:
            return parse_files(read_directory(Path(directory.text)))
        except ConfigError as error:
            raise directory.error(str(error)) from error
    if "source-listen-port" in given or "destination-app" in given:
        # localproxy looks into no file then.
        return FoundMappings({})
    try:
        found = parse_files(read_directory(DEFAULT_DIRECTORY), sections=False)
    except ConfigError:
        return FoundMappings({})
    # Nobody asked for this directory. It may be there for another purpose, so what is no mapping in
    # it is nobody's mistake.
    if not found.addresses:
        return FoundMappings({})
    note = f"mappings of this tunnel's services are looked for in ./{DEFAULT_DIRECTORY}"
    return FoundMappings(found.addresses, notes=(note,))
