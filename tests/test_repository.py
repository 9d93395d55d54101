"""What holds for the repository as a whole: layout, imports, words, packaging."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.wheel import FOLDERS, pip

ROOT = Path(__file__).parent.parent
GENERATED = {"proto/tunnel_pb2.py"}

PURE_NEVER_IMPORTS = {
    "asyncio",
    "logging",
    "pykka",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "websocket",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources() -> list[Path]:
    """Every source file of the three packages."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def written_sources() -> list[Path]:
    return [path for path in sources() if relative(path) not in GENERATED]


def installed(path: Path) -> Path:
    """Where a file of ours is below the root package, whose own folder has another name."""
    inside = path.relative_to(ROOT)
    return inside.relative_to("package") if inside.parts[0] == "package" else inside


def module_name(path: Path) -> str:
    parts = ("tunnelfleet", *installed(path).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def folders_with_code() -> list[str]:
    return sorted({relative(path.parent) for path in sources()})


def packaging() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, object] = tomllib.load(file)["tool"]["setuptools"]
    return found


def imports(path: Path) -> set[str]:
    """The absolute names that a file imports; relative ones resolved."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*above, *([node.module] if node.module else [])]))
    return names


def reaches(names: set[str], target: str) -> bool:
    return any(name == target or name.startswith(f"{target}.") for name in names)


class TestLayout:
    def test_the_folders_hold_code(self) -> None:
        assert set(FOLDERS) <= set(folders_with_code())

    @pytest.mark.parametrize("path", written_sources(), ids=relative)
    def test_every_module_says_what_it_owns(self, path: Path) -> None:
        text = path.read_text()
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "it has no docstring"
        assert len(docstring) > 20, "its docstring says nothing"


class TestImports:
    @pytest.mark.parametrize("path", sources(), ids=relative)
    def test_a_folder_is_not_imported_by_its_bare_name(self, path: Path) -> None:
        bare = {name for name in imports(path) if name.split(".")[0] in FOLDERS}
        assert not bare, "import it as tunnelfleet.*"

    @pytest.mark.parametrize(
        ("folder", "never"),
        [("proto", "actors"), ("proto", "runtime"), ("actors", "runtime")],
    )
    def test_lower_layers_do_not_know_higher_ones(self, folder: str, never: str) -> None:
        for path in sources():
            if relative(path).startswith(f"{folder}/"):
                assert not reaches(imports(path), f"tunnelfleet.{never}"), relative(path)

    def test_proto_is_pure(self) -> None:
        for path in written_sources():
            if relative(path).startswith("proto/"):
                assert not {name.split(".")[0] for name in imports(path)} & PURE_NEVER_IMPORTS

    def test_the_kernel_knows_no_tunnels(self) -> None:
        for path in sources():
            if relative(path).startswith("actors/kernel/"):
                names = {n for n in imports(path) if n.startswith("tunnelfleet.")}
                assert all(n.startswith("tunnelfleet.actors.kernel") for n in names), relative(path)


# Put together here so that this file does not contain what it looks for.
FORBIDDEN = {
    "m" + "ux": re.compile(r"(?i)(?<![a-z])(de)?m" + r"ux"),
    "TO" + "DO": re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b"),
    "session " + "id": re.compile(r"(?i)\bsession[ _-]i" + r"d\b"),
    "a path of one machine": re.compile(r"(/wo" + r"rk/|/tm" + r"p/\w|/ho" + r"me/)"),
}
SKIPPED_FOLDERS = {"build", "dist", "__pycache__", "node_modules"}
TEXT_FILES = {".py", ".md", ".toml", ".proto", ".pyi", ".cfg", ".yml", ".yaml", ".sh"}


def texts() -> list[Path]:
    found = [ROOT / ".ci" / "run", ROOT / "Makefile"]
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") or part in SKIPPED_FOLDERS for part in parts)
        if path.suffix in TEXT_FILES and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_forbidden_words(name: str) -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if FORBIDDEN[name].search(line)
    ]
    assert not found, "\n".join(found)


class TestPackaging:
    def test_every_folder_with_code_is_packaged(self) -> None:
        names = {module_name(ROOT / folder / "__init__.py") for folder in folders_with_code()}
        assert set(packaging()["packages"]) == names  # type: ignore[call-overload]

    def test_every_package_is_where_its_name_says(self) -> None:
        expected = {
            module_name(ROOT / folder / "__init__.py"): folder for folder in folders_with_code()
        }
        assert packaging()["package-dir"] == expected

    @pytest.mark.parametrize("folder", folders_with_code())
    def test_every_package_is_one_and_typed(self, folder: str) -> None:
        assert (ROOT / folder / "__init__.py").is_file()
        assert (ROOT / folder / "py.typed").is_file()


IMPORT_ALL = """
import importlib, pathlib, sys
target, *names = sys.argv[1:]
for name in names:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to(target), f"{name} is {module.__file__}"
"""


class TestWheel:
    def test_it_holds_every_file_and_nothing_beside(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        expected = {f"tunnelfleet/{installed(path).as_posix()}" for path in sources()}
        assert expected <= names
        typed = [ROOT / folder / "py.typed" for folder in folders_with_code()]
        assert {f"tunnelfleet/{installed(path).as_posix()}" for path in typed} <= names
        assert "tunnelfleet/proto/tunnel.proto" in names
        python_files = {name for name in names if name.endswith(".py")}
        assert python_files == expected
        assert all(re.match(r"tunnelfleet(/|-[\d.]+\w*\.dist-info/)", name) for name in names)

    def test_installed_afresh_every_module_imports(self, wheel: Path, tmp_path: Path) -> None:
        target = tmp_path / "site"
        pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
        names = [module_name(path) for path in sources()]
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", IMPORT_ALL, str(target), *names],
            env={"PYTHONPATH": str(target), "PATH": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert run.returncode == 0, run.stderr


class TestContinuousIntegration:
    def test_its_script_can_be_run(self) -> None:
        script = ROOT / ".ci" / "run"
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=200)

    @pytest.mark.parametrize(
        "target", ["help", "setup", "demo", "test", "check", "coverage", "bench", "clean"]
    )
    def test_make_knows_its_targets(self, target: str) -> None:
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{target}:.*## \w", makefile, re.MULTILINE)
