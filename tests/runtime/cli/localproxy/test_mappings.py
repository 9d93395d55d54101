from __future__ import annotations

from pathlib import Path

import pytest

from tunnelfleet.actors.addresses import Address, TcpAddress, UnixAddress
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.localproxy import mappings as localproxy_mappings
from tunnelfleet.runtime.cli.localproxy.mappings import (
    MappingFile,
    parse_files,
    parse_mapping,
    read_directory,
    read_text,
    to_addresses,
)
from tunnelfleet.runtime.cli.localproxy.options import Given


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
        found = parse_files(
            [MappingFile("a", "SSH=22\nHTTP=80\n"), MappingFile("b", "SSH=23\nAPP=1")]
        )
        assert texts(found.addresses) == {"SSH": "22", "HTTP": "80", "APP": "1"}
        assert found.addresses["HTTP"].origin == "a:2"
        assert found.notes == ("b:1: service 'SSH' is already mapped at a:1; this one is not used",)
        assert found.warnings == ()

    @pytest.mark.parametrize(
        ("file", "warning"),
        [
            (MappingFile("b", "SSH=22\nyaml: true"), "skipped b, which holds no mappings: b:2: "),
            (
                MappingFile("b", "", "b is not a text"),
                "skipped b, which holds no mappings: b is no",
            ),
            (MappingFile("b", "name = app"), "b:1: bad address 'app'"),
            (MappingFile("b", "SSH ="), "b:1: service 'SSH' has no address"),
            (MappingFile("b", f"key = {'k' * 100}"), "b:1: bad address 'kkkk...'"),
        ],
    )
    def test_what_is_no_mapping_is_left_out_with_a_warning(
        self, file: MappingFile, warning: str
    ) -> None:
        found = parse_files([file, MappingFile("c", "SSH=23")])
        assert texts(found.addresses) == {"SSH": "23"}
        assert len(found.warnings) == 1
        assert found.warnings[0].startswith(warning)
        assert "k" * 100 not in found.warnings[0]

    def test_localproxy_does_not_look_below_a_section(self) -> None:
        file = MappingFile("a", "SSH=22\n[server]\nport = 8080\nname = app")
        assert texts(parse_files([file]).addresses) == {"SSH": "22", "port": "8080"}
        assert parse_files([file], sections=False) == ({"SSH": Given("22", "a:1")}, (), ())


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

    def test_a_file_that_cannot_be_read_is_no_reason_to_fail(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
        (tmp_path / "b").write_text("SSH=1")
        bad, good = read_directory(tmp_path)
        assert "not a text file" in bad.problem
        assert (good.text, good.problem) == ("SSH=1", "")

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
        ("SSH", "localhost", "'localhost' has no port; write for example localhost:22"),
        ("SSH", "10.0.0.1", "'10.0.0.1' has no port; write for example 10.0.0.1:22"),
        ("SSH", "70000", "bad address '70000'"),
        ("SSH", "h:70000", "bad address 'h:70000'"),
        ("S" * 200, "22", "bad service id"),
        ("a\x00b", "22", "bad service id"),
    ],
)
def test_a_bad_address_says_where_it_stands(service_id: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^f.ini:4: {problem}"):
        to_addresses({service_id: Given(text, "f.ini:4")}, "127.0.0.1")
