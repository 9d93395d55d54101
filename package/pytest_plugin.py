"""The fixtures that this package gives to the tests of others; docs/testing.md shows them.

pytest imports this module at every start, wherever the package is installed: so it imports nothing
but pytest, and each fixture loads what it needs when a test asks for it. It keeps nothing: what a
fixture starts ends with the fixture.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime.testing import ConnectedPair, LocalService

MARKERS = (
    "tunnel_service(**options): the options of the fixture tunnel_service, such as tls=True",
    "tunnel_pair(services, **options): the arguments of the fixture tunnel_pair",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)


@pytest.fixture
def tunnel_service(request: pytest.FixtureRequest) -> Iterator[LocalService]:
    """A tunneling service with AWS's management API, for one test."""
    from tunnelfleet.runtime.testing import LocalService  # noqa: PLC0415 (see above)

    arguments, options = _marked(request, "tunnel_service", LocalService)
    with LocalService(*arguments, **options) as service:
        yield service


@pytest.fixture(scope="session")
def tunnel_service_session() -> Iterator[LocalService]:
    """One tunneling service for all tests of a session."""
    from tunnelfleet.runtime.testing import LocalService  # noqa: PLC0415 (see above)

    with LocalService() as service:
        yield service


@pytest.fixture
def tunnel_service_factory() -> Iterator[Callable[..., LocalService]]:
    """Make any number of services, with the options of `LocalService`; they end with the test."""
    from tunnelfleet.runtime.testing import LocalService  # noqa: PLC0415 (see above)

    with ExitStack() as parts:
        yield lambda **options: parts.enter_context(LocalService(**options))


@pytest.fixture
def tunnel_pair(
    request: pytest.FixtureRequest, tunnel_service: LocalService
) -> Iterator[ConnectedPair]:
    """A tunnel of `tunnel_service` whose source and destination are connected."""
    from tunnelfleet.runtime.testing import ConnectedPair  # noqa: PLC0415 (see above)

    arguments, options = _marked(request, "tunnel_pair", ConnectedPair)
    with ConnectedPair(tunnel_service, *arguments, **options) as pair:
        yield pair


@pytest.fixture
def tunnel_pair_factory(tunnel_service: LocalService) -> Iterator[Callable[..., ConnectedPair]]:
    """Make any number of pairs, with the arguments of `ConnectedPair`; they end with the test.

    They are tunnels of the fixture `tunnel_service`, unless `service=` names another.
    """
    from tunnelfleet.runtime.testing import ConnectedPair  # noqa: PLC0415 (see above)

    with ExitStack() as parts:

        def make(
            *arguments: Any, service: LocalService | None = None, **options: Any
        ) -> ConnectedPair:
            return parts.enter_context(
                ConnectedPair(service or tunnel_service, *arguments, **options)
            )

        yield make


def _marked(
    request: pytest.FixtureRequest, name: str, made: Callable[..., Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that a test's marker has; it fails for one that is not there."""
    mark = request.node.get_closest_marker(name)
    if mark is None:
        return (), {}
    import inspect  # noqa: PLC0415 (see above)

    known = inspect.signature(made).parameters
    if unknown := sorted(set(mark.kwargs) - set(known)):
        pytest.fail(
            f"@pytest.mark.{name} has no option {', '.join(unknown)}; "
            f"it has {', '.join(each for each in known if each != 'service')}",
            pytrace=False,
        )
    return mark.args, mark.kwargs
