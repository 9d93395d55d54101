"""Each operation through the real boto3: what comes back, and how it fails."""

from __future__ import annotations

import datetime
import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.support.aws_service import REGION, WAIT_SECONDS, aws_client, call_api
from tests.support.service_client import CLIENT_TOKEN, TunnelClient
from tests.support.waiting import eventually
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.service.management import ManagementLimits, ManagementServer, aws_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.service import TunnelService

DESTINATION = {"thingName": "press-4", "services": ["SSH", "HTTP"]}


def code_of(call_it: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call_it()
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def describe(aws: Any, opened: dict[str, Any]) -> dict[str, Any]:
    return dict(aws.describe_tunnel(tunnelId=opened["tunnelId"])["tunnel"])


class TestOpen:
    def test_all_that_was_given_comes_back(self, aws: Any) -> None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
        opened = aws.open_tunnel(
            description="to mend the préss",
            destinationConfig=DESTINATION,
            timeoutConfig={"maxLifetimeTimeoutMinutes": 30},
            tags=[{"key": "site", "value": "lyon"}, {"key": "who", "value": ""}],
        )
        arn = f"arn:aws:iot:{REGION}:000000000000:tunnel/{opened['tunnelId']}"
        assert opened["tunnelArn"] == arn
        found = describe(aws, opened)
        created = found.pop("createdAt")
        assert before < created <= datetime.datetime.now(datetime.UTC)
        state = {"status": "DISCONNECTED", "lastUpdatedAt": created}
        assert found == {
            "tunnelId": opened["tunnelId"],
            "tunnelArn": arn,
            "status": "OPEN",
            "description": "to mend the préss",
            "destinationConfig": DESTINATION,
            "timeoutConfig": {"maxLifetimeTimeoutMinutes": 30},
            "tags": [{"key": "site", "value": "lyon"}, {"key": "who", "value": ""}],
            "lastUpdatedAt": created,
            "sourceConnectionState": state,
            "destinationConnectionState": state,
        }

    def test_nothing_given_is_a_tunnel_without_services_for_twelve_hours(self, aws: Any) -> None:
        found = describe(aws, aws.open_tunnel())
        assert found["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 720}
        assert not {"description", "destinationConfig", "tags"} & found.keys()

    def test_tokens_are_different_and_stand_nowhere_else(self, aws: Any) -> None:
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        tokens = {opened["sourceAccessToken"], opened["destinationAccessToken"]}
        assert len(tokens) == 2
        told = repr(describe(aws, opened)) + repr(aws.list_tunnels())
        assert not any(token in told for token in tokens)

    def test_its_tunnel_relays_and_its_states_are_live(
        self, aws: Any, service: TunnelService
    ) -> None:
        opened = aws.open_tunnel(destinationConfig=DESTINATION)

        def state(field: str) -> dict[str, Any]:
            return dict(describe(aws, opened)[f"{field}ConnectionState"])

        before = state("source")["lastUpdatedAt"]
        connected = {
            mode.value: TunnelClient(service, mode, opened[f"{mode}AccessToken"], announced=False)
            for mode in Mode
        }
        for each in connected.values():
            assert each.message().available_service_ids == ("SSH", "HTTP")
        eventually(lambda: {state(mode)["status"] for mode in Mode} == {"CONNECTED"})
        eventually(lambda: min(state(mode)["lastUpdatedAt"] for mode in Mode) > before)
        connected["source"].close()
        eventually(lambda: state("source")["status"] == "DISCONNECTED")
        assert state("destination")["status"] == "CONNECTED"
        connected["destination"].close()

    @pytest.mark.parametrize(
        ("given", "constraint"),
        [
            ({"description": ""}, "regular expression pattern: [^\\p{C}]{1,2048}"),
            ({"description": "a\x07b"}, "regular expression pattern"),
            ({"description": "a" * 2049}, "regular expression pattern"),
            ({"destinationConfig": {}}, "'destinationConfig.services' failed to satisfy"),
            ({"destinationConfig": {"services": []}}, "length greater than or equal to 1"),
            ({"destinationConfig": {"services": ["S H"]}}, "destinationConfig.services.1.member"),
            ({"destinationConfig": {"services": ["a" * 129]}}, "less than or equal to 128"),
            ({"destinationConfig": {"services": ["SSH", "SSH"]}}, "none of them twice"),
            ({"destinationConfig": {"services": ["SSH"], "thingName": "a b"}}, "thingName"),
            ({"timeoutConfig": {"maxLifetimeTimeoutMinutes": 0}}, "greater than or equal to 1"),
            ({"timeoutConfig": {"maxLifetimeTimeoutMinutes": 721}}, "less than or equal to 720"),
            ({"tags": []}, "length greater than or equal to 1"),
            ({"tags": [{"key": "a"}]}, "'tags.1.member.value'"),
            ({"tags": [{"key": "a!", "value": "b"}]}, "'tags.1.member.key'"),
            ({"tags": [{"key": "aws:x", "value": "b"}]}, "must not begin with aws:"),
            ({"tags": [{"key": "a", "value": "b"}] * 2}, "there twice"),
            ({"tags": [{"key": f"k{n}", "value": ""} for n in range(201)]}, "equal to 200"),
        ],
        ids=lambda each: str(each)[:40],
    )
    def test_what_the_model_forbids_is_refused(
        self, aws: Any, given: dict[str, Any], constraint: str
    ) -> None:
        code, message = code_of(lambda: aws.open_tunnel(**given))
        assert code == "ValidationException"
        assert constraint in message
        assert aws.list_tunnels()["tunnelSummaries"] == []

    def test_all_letters_are_letters(self, aws: Any) -> None:
        tags = [{"key": "größe/東京", "value": "٣ - ok"}]
        assert describe(aws, aws.open_tunnel(tags=tags))["tags"] == tags

    def test_more_than_the_limits_allow_is_refused(self, service: TunnelService) -> None:
        limits = ManagementLimits(open_tunnels=2, services=1, tags=1)
        with ManagementServer(service, limits=limits) as server:
            aws = aws_client(server.url)
            first = aws.open_tunnel()
            aws.open_tunnel(destinationConfig={"services": ["SSH"]})
            refused = [
                lambda: aws.open_tunnel(),
                lambda: aws.open_tunnel(destinationConfig=DESTINATION),
                lambda: aws.open_tunnel(tags=[{"key": k, "value": ""} for k in "ab"]),
            ]
            for each in refused:
                with pytest.raises(aws.exceptions.LimitExceededException, match="at most"):
                    each()
            aws.close_tunnel(tunnelId=first["tunnelId"])
            aws.open_tunnel()
            aws.close()

    def test_limits_of_aws(self, service: TunnelService) -> None:
        with ManagementServer(service, limits=aws_limits()) as server:
            aws = aws_client(server.url)
            four = {"services": ["A", "B", "C", "D"]}
            with pytest.raises(aws.exceptions.LimitExceededException):
                aws.open_tunnel(destinationConfig=four)
            three = {"services": ["A", "B", "C"]}
            codes = set()
            for _ in range(20):  # one a second; twenty take less than twenty seconds
                try:
                    aws.open_tunnel(destinationConfig=three)
                except ClientError as error:
                    codes.add(error.response["Error"]["Code"])
                    break
            assert codes == {"ThrottlingException"}
            aws.close()


class TestClose:
    def test_it_ends_both_clients_and_is_told_as_closed(
        self, aws: Any, service: TunnelService
    ) -> None:
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        source = TunnelClient(service, Mode.SOURCE, opened["sourceAccessToken"])
        destination = TunnelClient(service, Mode.DESTINATION, opened["destinationAccessToken"])
        aws.close_tunnel(tunnelId=opened["tunnelId"])
        source.assert_ended()
        destination.assert_ended()
        found = describe(aws, opened)
        assert found["status"] == "CLOSED"
        assert found["lastUpdatedAt"] > found["createdAt"]
        assert found["sourceConnectionState"]["status"] == "DISCONNECTED"
        aws.close_tunnel(tunnelId=opened["tunnelId"])  # once more changes nothing
        assert service.open_names() == []
        for client_end in (source, destination):
            client_end.close()

    @pytest.mark.parametrize("is_closed", [False, True])
    def test_delete_forgets_it(self, aws: Any, is_closed: bool) -> None:
        opened = aws.open_tunnel()
        if is_closed:
            aws.close_tunnel(tunnelId=opened["tunnelId"])
        aws.close_tunnel(tunnelId=opened["tunnelId"], delete=True)
        with pytest.raises(aws.exceptions.ResourceNotFoundException):
            describe(aws, opened)
        assert aws.list_tunnels()["tunnelSummaries"] == []

    def test_a_lifetime_ends(self, aws: Any, service: TunnelService) -> None:
        tokens = service.open_tunnel("short", ["SSH"], lifetime_seconds=0.3)
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
        source.assert_ended()
        source.close()
        eventually(lambda: describe(aws, {"tunnelId": "short"})["status"] == "CLOSED")
        assert service.open_names() == []


class TestRotate:
    @pytest.mark.parametrize(
        ("mode", "fields"),
        [
            ("SOURCE", {"source"}),
            ("DESTINATION", {"destination"}),
            ("ALL", {"source", "destination"}),
        ],
    )
    def test_the_old_client_goes_and_the_new_token_lets_in(
        self, aws: Any, service: TunnelService, mode: str, fields: set[str]
    ) -> None:
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        old = {
            field: TunnelClient(service, Mode(field), opened[f"{field}AccessToken"], CLIENT_TOKEN)
            for field in ("source", "destination")
        }
        rotated = aws.rotate_tunnel_access_token(tunnelId=opened["tunnelId"], clientMode=mode)
        assert rotated["tunnelArn"] == opened["tunnelArn"]
        given = {key.removesuffix("AccessToken") for key in rotated if key.endswith("Token")}
        assert given == fields
        for field, client_end in old.items():
            if field in fields:
                client_end.assert_ended()
                new = TunnelClient(service, Mode(field), rotated[f"{field}AccessToken"])
                new.assert_quiet()
                new.close()
                with pytest.raises(Exception, match="403"):
                    TunnelClient(service, Mode(field), opened[f"{field}AccessToken"], CLIENT_TOKEN)
            else:
                client_end.ws.ping(b"still here")
                while (frame := client_end.frame()).data != b"still here":
                    assert frame.opcode == 2  # resets of the streams of the other side, if any
            client_end.close()
        assert describe(aws, opened)["lastUpdatedAt"] > describe(aws, opened)["createdAt"]

    def test_a_new_destination_has_other_services(self, aws: Any, service: TunnelService) -> None:
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        source = TunnelClient(service, Mode.SOURCE, opened["sourceAccessToken"], CLIENT_TOKEN)
        rotated = aws.rotate_tunnel_access_token(
            tunnelId=opened["tunnelId"],
            clientMode="DESTINATION",
            destinationConfig={"thingName": "press-5", "services": ["VNC"]},
        )
        source.assert_ended()
        source.close()
        for mode, token in (
            (Mode.SOURCE, opened["sourceAccessToken"]),
            (Mode.DESTINATION, rotated["destinationAccessToken"]),
        ):
            back = TunnelClient(service, mode, token, CLIENT_TOKEN, announced=False)
            assert back.message().available_service_ids == ("VNC",)
            back.close()
        found = describe(aws, opened)
        assert found["destinationConfig"] == {"thingName": "press-5", "services": ["VNC"]}
        assert aws.list_tunnels(thingName="press-4")["tunnelSummaries"] == []

    def test_what_cannot_be_rotated(self, aws: Any) -> None:
        opened = aws.open_tunnel()
        named = {"tunnelId": opened["tunnelId"]}
        code, message = code_of(lambda: aws.rotate_tunnel_access_token(**named, clientMode="BOTH"))
        assert (code, "[SOURCE, DESTINATION, ALL]" in message) == ("ValidationException", True)
        code, _ = code_of(
            lambda: aws.rotate_tunnel_access_token(
                **named, clientMode="SOURCE", destinationConfig=DESTINATION
            )
        )
        assert code == "ValidationException"
        aws.close_tunnel(**named)
        with pytest.raises(aws.exceptions.ResourceNotFoundException, match="closed"):
            aws.rotate_tunnel_access_token(**named, clientMode="ALL")


class TestTags:
    def test_they_are_added_changed_and_removed(self, aws: Any) -> None:
        arn = aws.open_tunnel(tags=[{"key": "a", "value": "1"}])["tunnelArn"]
        tags = [{"key": "a", "value": "2"}, {"key": "b", "value": "3"}]
        aws.tag_resource(resourceArn=arn, tags=tags)
        assert aws.list_tags_for_resource(resourceArn=arn)["tags"] == tags
        aws.untag_resource(resourceArn=arn, tagKeys=["a", "never there"])
        assert aws.list_tags_for_resource(resourceArn=arn)["tags"] == tags[1:]
        aws.untag_resource(resourceArn=arn, tagKeys=["b"])
        assert "tags" not in aws.list_tags_for_resource(resourceArn=arn)

    def test_there_are_so_many_and_no_more(self, aws: Any) -> None:
        arn = aws.open_tunnel()["tunnelArn"]
        many = [{"key": f"k{number}", "value": ""} for number in range(50)]
        aws.tag_resource(resourceArn=arn, tags=many)
        aws.tag_resource(resourceArn=arn, tags=many)
        code, message = code_of(
            lambda: aws.tag_resource(resourceArn=arn, tags=[{"key": "one more", "value": ""}])
        )
        assert (code, "50 tags" in message) == ("ValidationException", True)

    @pytest.mark.parametrize(
        "arn",
        [
            "arn:aws:iot:us-east-1:000000000000:tunnel/nobody",
            "arn:aws:iot:eu-west-1:000000000000:tunnel/x",
            "press-4",
        ],
    )
    def test_of_what_is_not_there(self, aws: Any, arn: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: aws.list_tags_for_resource(resourceArn=arn),
            lambda: aws.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": ""}]),
            lambda: aws.untag_resource(resourceArn=arn, tagKeys=["a"]),
        ]
        for each in calls:
            with pytest.raises(aws.exceptions.ResourceNotFoundException):
                each()


class TestList:
    def test_a_thousand_in_pages(self, aws: Any, service: TunnelService) -> None:
        names = [f"tunnel-{number}" for number in range(1000)]
        for name in names:
            service.open_tunnel(name)

        def newest() -> object:
            return aws.list_tunnels(maxResults=1)["tunnelSummaries"][0]["tunnelId"]

        # What was not opened through the API is told to it by an event.
        eventually(lambda: newest() == names[-1])
        pages = [aws.list_tunnels(maxResults=64)]
        while token := pages[-1].get("nextToken"):
            pages.append(aws.list_tunnels(maxResults=64, nextToken=token))
        assert [len(page["tunnelSummaries"]) for page in pages] == [64] * 15 + [40]
        found = [each["tunnelId"] for page in pages for each in page["tunnelSummaries"]]
        assert found == names[::-1]
        assert len(aws.list_tunnels()["tunnelSummaries"]) == 100

    def test_of_one_thing(self, aws: Any) -> None:
        mine = [
            aws.open_tunnel(destinationConfig={"thingName": thing, "services": ["SSH"]})["tunnelId"]
            for thing in ("press-4", "press-5", "press-4", "press-4")
        ]
        first = aws.list_tunnels(thingName="press-4", maxResults=2)
        rest = aws.list_tunnels(thingName="press-4", nextToken=first["nextToken"])
        found = [each["tunnelId"] for each in first["tunnelSummaries"] + rest["tunnelSummaries"]]
        assert found == [mine[3], mine[2], mine[0]]
        assert "nextToken" not in rest

    def test_what_changes_meanwhile_neither_repeats_nor_hides(self, aws: Any) -> None:
        ids = [aws.open_tunnel()["tunnelId"] for _ in range(6)]
        first = aws.list_tunnels(maxResults=2)
        aws.close_tunnel(tunnelId=ids[4], delete=True)  # the last of the page that was read
        aws.close_tunnel(tunnelId=ids[3], delete=True)
        aws.open_tunnel()
        rest = aws.list_tunnels(nextToken=first["nextToken"])
        assert [each["tunnelId"] for each in rest["tunnelSummaries"]] == [ids[2], ids[1], ids[0]]

    @pytest.mark.parametrize("token", ["bm9uc2Vuc2U=", "djE6", "djE6eA==", "a", "=", "-_-_"])
    def test_a_token_of_its_own_making_is_needed(self, aws: Any, token: str) -> None:
        code, message = code_of(lambda: aws.list_tunnels(nextToken=token))
        assert (code, "nextToken" in message) == ("ValidationException", True)

    @pytest.mark.parametrize("most", [0, 101])
    def test_pages_have_their_size(self, aws: Any, most: int) -> None:
        assert code_of(lambda: aws.list_tunnels(maxResults=most))[0] == "ValidationException"


class TestTunnelsOfOthers:
    def test_those_of_the_command_line_are_there(
        self, service: TunnelService, management: ManagementServer
    ) -> None:
        service.open_tunnel("press-4", ["SSH"])
        service.open_tunnel("no id / of AWS")
        aws = aws_client(management.url)
        eventually(lambda: len(aws.list_tunnels()["tunnelSummaries"]) == 1)
        found = describe(aws, {"tunnelId": "press-4"})
        assert found["destinationConfig"] == {"services": ["SSH"]}
        assert "timeoutConfig" not in found  # it has no end
        service.close_tunnel("press-4")
        eventually(lambda: describe(aws, {"tunnelId": "press-4"})["status"] == "CLOSED")
        service.open_tunnel("press-4", ["VNC"])
        eventually(lambda: describe(aws, {"tunnelId": "press-4"})["status"] == "OPEN")
        aws.close()

    def test_an_unknown_tunnel_is_not_found(self, aws: Any) -> None:
        for each in (
            lambda: aws.describe_tunnel(tunnelId="nobody"),
            lambda: aws.close_tunnel(tunnelId="nobody"),
            lambda: aws.rotate_tunnel_access_token(tunnelId="nobody", clientMode="ALL"),
        ):
            with pytest.raises(aws.exceptions.ResourceNotFoundException, match="nobody not found"):
                each()


def test_a_service_that_is_held_up_is_unavailable(
    service: TunnelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.service.service.COMMAND_SECONDS", 0.05)
    with ManagementServer(service) as server:
        release = threading.Event()
        assert service._loop is not None
        service._loop.call_soon_threadsafe(release.wait, WAIT_SECONDS)
        try:
            status, answer = call_api(server.url, "OpenTunnel", {})
        finally:
            release.set()
        assert (status, answer["__type"]) == (503, "ServiceUnavailableException")
