"""Fixtures of the actors' tests: a connector, tunnels between fakes, scripted servers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_server import ScriptedServer, tls_contexts
from tests.support.tunnel_rig import TunnelRig
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.proto import Mode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from tunnelfleet.actors.kernel import Dispatcher


@pytest.fixture
def connector() -> Iterator[Connector]:
    made = Connector(2)
    yield made
    made.close()


@pytest.fixture
def rig(dispatcher: Dispatcher) -> Iterator[Callable[..., TunnelRig]]:
    """Return a maker of rigs, which are closed after the test."""
    made: list[TunnelRig] = []

    def make(mode: Mode = Mode.DESTINATION, **settings: Any) -> TunnelRig:
        made.append(TunnelRig(dispatcher, mode, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A TLS server's context, and a client's that trusts it."""
    return tls_contexts(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Return a maker of scripted servers, which are closed and checked after the test."""
    with contextlib.ExitStack() as running:

        def make(script: Callable[[Any], None], **settings: Any) -> ScriptedServer:
            return running.enter_context(ScriptedServer(script, **settings))

        yield make
