"""A service for tests: what its environment leads to, who may call, and that nothing is left."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.waiting import eventually
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import ServiceEventKind
from tunnelfleet.runtime.testing import ConnectedPair, LocalService

if TYPE_CHECKING:
    from typing import Any

    from tunnelfleet.runtime.service import ServiceEvent


def aws_by_environment(service: LocalService, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    return boto3.client("iotsecuretunneling")


@pytest.mark.parametrize("tls", [False, True])
def test_the_environment_is_all_that_a_program_needs(
    tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of somebody's real account")
    # What another test has made it see is not meant.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    # Twice: boto3 keeps what its default session saw the first time.
    for region in ("eu-west-1", "us-west-2"):
        with LocalService(tls=tls, region=region) as service:
            aws = aws_by_environment(service, monkeypatch)
            opened = aws.open_tunnel(destinationConfig={"services": ["SSH"]})
            aws.close()
            assert f":{region}:" in opened["tunnelArn"]
            assert service.service.open_names() == [opened["tunnelId"]]


def test_a_request_with_another_secret_is_refused(service: LocalService) -> None:
    aws = service.client(aws_secret_access_key="another")
    with pytest.raises(ClientError, match="InvalidSignature"):
        aws.list_tunnels()


def test_anybody_may_call_one_that_is_not_signed() -> None:
    with LocalService(signed=False) as service:
        aws = service.client(aws_secret_access_key="another")
        assert aws.list_tunnels()["tunnelSummaries"] == []


def test_awss_limits() -> None:
    with LocalService(aws_limits=True) as service:
        aws = service.client()
        with pytest.raises(ClientError, match="LimitExceeded"):
            aws.open_tunnel(destinationConfig={"services": ["A", "B", "C", "D"]})


def test_the_api_of_a_service_that_does_not_run() -> None:
    with pytest.raises(ConfigError, match="does not run"):
        _ = LocalService().management_url


def test_without_boto3(service: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    url = service.management_url
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tunnelfleet\[aws\]'"):
        service.client()
    assert service.environment["AWS_ENDPOINT_URL_IOTSECURETUNNELING"] == url


def test_it_shows_no_secret(service: LocalService) -> None:
    assert repr(service) == f"<LocalService {service.endpoint}>"
    assert service.secret_key not in repr(service)


def test_two_do_not_know_each_other(service: LocalService) -> None:
    with LocalService() as other:
        other.client().open_tunnel()
        assert service.client().list_tunnels()["tunnelSummaries"] == []
        assert other.management_url != service.management_url


def test_its_events_can_be_watched() -> None:
    events: list[ServiceEvent] = []
    with LocalService(on_event=events.append) as service, ConnectedPair(service):
        kind = ServiceEventKind.CLIENT_CONNECTED
        eventually(lambda: {e.mode for e in events if e.kind is kind} == set(Mode))
