from __future__ import annotations

from pathlib import Path

import pytest

from tunnelfleet.actors.config import Address, TcpAddress, UnixAddress
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli import localproxy_mappings
from tunnelfleet.runtime.cli.localproxy_mappings import (
    MappingFile,
    parse_files,
    parse_mapping,
    read_directory,
    read_text,
    to_addresses,
)
from tunnelfleet.runtime.cli.localproxy_options import Given


def texts(mapping: dict[str, Given]) -> dict[str, str]:
    return {service_id: given.text for service_id, given in mapping.items()}


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("5555", {"": "5555"}),
        (" localhost:22 ", {"": "localhost:22"}),
        ("SSH=5555", {"SSH": "5555"}),
        ("SSH=5555,HTTP=8080", {"SSH": "5555", "HTTP": "8080"}),
        (
            "SSH = 127.0.0.1:22 , APP=/run/app.sock,",
            {"SSH": "127.0.0.1:22", "APP": "/run/app.sock"},
        ),
        ("a.b-c=[::1]:22", {"a.b-c": "[::1]:22"}),
        ("5555,", {"": "5555"}),
    ],
)
def test_a_mapping(text: str, mapping: dict[str, str]) -> None:
    assert texts(parse_mapping(Given(text, "option -s"))) == mapping


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no address"),
        (",", "no address"),
        ("5555,6666", "'5555' is not SERVICE=ADDRESS"),
        ("SSH=1,6666", "'6666' is not SERVICE=ADDRESS"),
        ("SSH=", "'SSH=' is not SERVICE=ADDRESS"),
        ("=22", "'=22' is not SERVICE=ADDRESS"),
        ("SSH=1=2", "'SSH=1=2' is not SERVICE=ADDRESS"),
        ("SSH=1,SSH=2", "service 'SSH' is mapped twice"),
    ],
)
def test_a_bad_mapping(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^option -s: {problem}"):
        parse_mapping(Given(text, "option -s"))


class TestFiles:
    def test_the_first_mapping_of_a_service_wins(self) -> None:
        mapping, notes = parse_files(
            [MappingFile("a", "SSH=22\nHTTP=80\n"), MappingFile("b", "SSH=23\nAPP=1")],
            lenient=False,
        )
        assert texts(mapping) == {"SSH": "22", "HTTP": "80", "APP": "1"}
        assert mapping["HTTP"].origin == "a:2"
        assert notes == ["b:1: service 'SSH' is already mapped at a:1; this one is not used"]

    def test_a_file_of_another_form_is_an_error_when_it_was_asked_for(self) -> None:
        with pytest.raises(ConfigError, match=r"^b:2: write it as"):
            parse_files([MappingFile("b", "SSH=22\nyaml: true")], lenient=False)

    def test_and_is_skipped_as_a_whole_when_it_was_not(self) -> None:
        mapping, notes = parse_files(
            [MappingFile("b", "SSH=22\nyaml: true"), MappingFile("c", "SSH=23")], lenient=True
        )
        assert texts(mapping) == {"SSH": "23"}
        assert len(notes) == 1
        assert notes[0].startswith("skipped b")


class TestReading:
    def test_a_directory_is_read_with_those_below_it(self, tmp_path: Path) -> None:
        (tmp_path / "b.ini").write_text("B=2")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "c.ini").write_text("\ufeffC=3")
        assert [(Path(f.name).name, f.text) for f in read_directory(tmp_path)] == [
            ("c.ini", "C=3"),
            ("b.ini", "B=2"),
        ]

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is not a directory"):
            read_directory(tmp_path / "none")

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="has no files"):
            read_directory(tmp_path)

    def test_too_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(localproxy_mappings, "MAX_FILES", 1)
        (tmp_path / "a").write_text("")
        (tmp_path / "b").write_text("")
        with pytest.raises(ConfigError, match="more than 1 files"):
            read_directory(tmp_path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read .*none: No such file"):
            read_text(tmp_path / "none")

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="not a text file"):
            read_text(tmp_path / "f")

    def test_a_file_that_is_too_large(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(localproxy_mappings, "MAX_FILE_BYTES", 3)
        (tmp_path / "f").write_text("1234")
        with pytest.raises(ConfigError, match="more than 3 bytes"):
            read_text(tmp_path / "f")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("22", TcpAddress("10.0.0.1", 22)),
        ("h:22", TcpAddress("h", 22)),
        ("[::1]:22", TcpAddress("::1", 22)),
        ("/run/x", UnixAddress("/run/x")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert to_addresses({"S": Given(text, "o")}, "10.0.0.1") == {"S": address}


@pytest.mark.parametrize(
    ("service_id", "text", "problem"),
    [
        ("SSH", "no-port", "bad address 'no-port'"),
        ("SSH", "h:70000", "bad address 'h:70000'"),
        ("S" * 200, "22", "bad service id"),
        ("a\x00b", "22", "bad service id"),
    ],
)
def test_a_bad_address_says_where_it_stands(service_id: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^f.ini:4: {problem}"):
        to_addresses({service_id: Given(text, "f.ini:4")}, "127.0.0.1")
