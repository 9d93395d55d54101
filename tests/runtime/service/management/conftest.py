"""Fixtures of the management API's tests: a service with its API in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import aws_client
from tunnelfleet.runtime.service.management import ManagementServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime.service import TunnelService


@pytest.fixture
def management(service: TunnelService) -> Iterator[ManagementServer]:
    with ManagementServer(service) as server:
        yield server


@pytest.fixture
def aws(management: ManagementServer) -> Iterator[Any]:
    made = aws_client(management.url)
    yield made
    made.close()
