"""`tunnelfleet localproxy` as typer sees it: for its help, and for its errors.

Owns the form of the command there. What it does is in `command`, which reads most command lines
itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperCommand

from tunnelfleet.runtime.cli.options import take_as_given, takes

from .command import expand, run
from .options import LOCALPROXY_OPTIONS, TABLE


class AbbreviatingCommand(TyperCommand):
    """A command whose long options may be shortened."""

    FIRST: ClassVar[frozenset[str]] = frozenset()
    """See `expand`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Make shortened options whole, and parse them."""
        take_as_given(self.get_params(ctx))
        takes_value = {
            name: not getattr(parameter, "is_flag", False)
            for parameter in self.get_params(ctx)
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        return super().parse_args(ctx, expand(args, takes_value, self.FIRST))


class LocalproxyCommand(AbbreviatingCommand):
    """The command line, which takes shortened options as localproxy does."""

    FIRST = LOCALPROXY_OPTIONS


@takes(TABLE)
def localproxy_command(**given: Any) -> int:
    """Run one tunnel, with the options of AWS's localproxy.

    The web proxy is taken from HTTPS_PROXY or ALL_PROXY, except for hosts in NO_PROXY. A signal
    (Ctrl-C, SIGTERM) sends what was read, closes and exits with status 0; a second one exits at
    once.
    """
    return run({each.name: given[each.parameter] for each in TABLE})
