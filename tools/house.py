"""Measures the house: how many modules there are, how long, and who imports whom.

    python tools/house.py             a table for the whole, one row a folder, and the circles
    python tools/house.py --json      the same for a program

It reads the source files and runs none of them. Generated files are left out. What the figures
mean:

- *modules*: files of Python. *With code* are those that define something; an `__init__.py` that
  only passes names on does not.
- *before first definition*: the lines above the first `def` or `class`, as a share of all lines of
  the modules that define something: docstring, imports, constants.
- *single importer*: a module that exactly one other module imports, so that the two may be one. A
  package's `__init__.py` is a list of names and does not count as an importer.
- *circle*: modules that import each other, directly or through others. The first kind has the
  imports under `if TYPE_CHECKING:` too, which is what a reader follows; the second kind, what
  Python runs at import, has neither those nor the imports inside functions.
- *code lines* are lines that are neither blank, nor comment, nor docstring.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import statistics
import sys
import tokenize
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("actors", "package", "proto", "runtime")
"""Where our packages are; one that a checkout does not have is skipped."""

PACKAGE = "tunnelfleet"
KERNEL = "actors/kernel"
GENERATED = "_pb2.py"
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)


@dataclass(frozen=True)
class Module:
    """One source file.

    Attributes:
        path: relative to the root of the repository.
        name: as it is imported.
        lines: all of them.
        code_lines: those that are neither blank, nor comment, nor docstring.
        lines_before_definition: those above the first `def` or `class`; None if it has none.
        imports: the modules of ours that it imports anywhere in the file.
        imports_at_import: those that Python loads when it loads this one.
    """

    path: str
    name: str
    lines: int
    code_lines: int
    lines_before_definition: int | None
    imports: frozenset[str] = frozenset()
    imports_at_import: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """Where it is."""
        return Path(self.path).parent.as_posix()

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__.py` of a package."""
        return self.path.endswith("__init__.py")


@dataclass(frozen=True)
class Figures:
    """What was measured of a set of modules."""

    modules: int
    modules_with_code: int
    median_lines: float
    source_lines: int
    code_lines: int
    before_first_definition_percent: float
    single_importer: int
    circles: list[list[str]] = field(default_factory=list)
    circles_at_import: list[list[str]] = field(default_factory=list)


def read_modules(root: Path = ROOT) -> list[Module]:
    """Read every module of ours below `root`."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    names = {_module_name(path.relative_to(root)): path for path in paths}
    return [
        _read(root, name, path, names.keys())
        for name, path in names.items()
        if not path.name.endswith(GENERATED)
    ]


def _module_name(path: Path) -> str:
    parts = [PACKAGE, *path.with_suffix("").parts]
    if parts[1] == "package":
        # The folder of the root package has another name than the package.
        del parts[1]
    return ".".join(parts).removesuffix(".__init__")


def _read(root: Path, name: str, path: Path, known: Iterable[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    is_package = path.name == "__init__.py"
    everywhere = frozenset(_imports(ast.walk(tree), name, known, is_package=is_package))
    loaded = frozenset(_imports(_run_at_import(tree), name, known, is_package=is_package))
    return Module(
        path.relative_to(root).as_posix(),
        name,
        len(text.splitlines()),
        _count_code_lines(text, tree),
        _lines_before_definition(tree),
        everywhere - {name},
        loaded - {name},
    )


def _lines_before_definition(tree: ast.Module) -> int | None:
    for node in tree.body:
        if isinstance(node, _DEFINITIONS):
            return min([node.lineno, *[each.lineno for each in node.decorator_list]]) - 1
    return None


def _count_code_lines(text: str, tree: ast.Module) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        # A string that stands alone is a docstring, of a module, class, function or attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            assert node.end_lineno is not None
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def _run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for otherwise in node.orelse:
                yield otherwise
                yield from _run_at_import(otherwise)
            continue
        yield node
        yield from _run_at_import(node)


def _imports(
    nodes: Iterable[ast.AST], name: str, known: Iterable[str], *, is_package: bool
) -> Iterator[str]:
    """The modules among `known` that the import statements among `nodes` name."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                if target in known:
                    yield target
                elif base in known:
                    yield base


def measure(modules: list[Module], everybody: list[Module] | None = None) -> Figures:
    """Measure some modules.

    Args:
        modules: what to measure.
        everybody: where importers are looked for; `modules` when None.
    """
    with_code = [each for each in modules if each.lines_before_definition is not None]
    before = sum(each.lines_before_definition or 0 for each in with_code)
    total = sum(each.lines for each in with_code)
    importers = count_importers(everybody or modules)
    return Figures(
        modules=len(modules),
        modules_with_code=len(with_code),
        median_lines=statistics.median([each.lines for each in with_code] or [0]),
        source_lines=sum(each.lines for each in modules),
        code_lines=sum(each.code_lines for each in modules),
        before_first_definition_percent=round(100 * before / total, 1) if total else 0.0,
        single_importer=sum(not m.is_package and importers[m.name] == 1 for m in modules),
        circles=find_circles({each.name: each.imports for each in modules}),
        circles_at_import=find_circles({each.name: each.imports_at_import for each in modules}),
    )


def count_importers(modules: list[Module]) -> dict[str, int]:
    """How many modules import each, those that only pass names on left out."""
    counts = dict.fromkeys([each.name for each in modules], 0)
    for module in modules:
        if not module.is_package:
            for target in module.imports:
                counts[target] = counts.get(target, 0) + 1
    return counts


def find_circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of modules that reach each other, the largest first (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(imports[name]):
            if target not in imports:
                continue
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            position = stack.index(name)
            group = sorted(stack[position:])
            del stack[position:]
            if len(group) > 1:
                found.append(group)

    for name in sorted(imports):
        if name not in index:
            visit(name)
    return sorted(found, key=lambda group: (-len(group), group))


def measure_house(root: Path = ROOT) -> dict[str, Figures]:
    """Measure the whole, the kernel, and each folder, by name."""
    modules = read_modules(root)
    result = {"all": measure(modules)}
    for folder in sorted({each.folder for each in modules}):
        result[folder] = measure([each for each in modules if each.folder == folder], modules)
    return result


def print_table(figures: dict[str, Figures]) -> None:
    """Print the figures for people."""
    head = ("folder", "modules", "with code", "median", "lines", "code", "before def", "1 importer")
    rows = [
        (
            name,
            str(each.modules),
            str(each.modules_with_code),
            f"{each.median_lines:g}",
            str(each.source_lines),
            str(each.code_lines),
            f"{each.before_first_definition_percent:.1f} %",
            str(each.single_importer),
        )
        for name, each in figures.items()
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
    whole = figures["all"]
    _print_circles("circles, typing imports included", whole.circles)
    _print_circles("circles at import", whole.circles_at_import)
    if KERNEL in figures:
        _print_circles("circles in the kernel, typing imports included", figures[KERNEL].circles)


def _print_circles(title: str, circles: list[list[str]]) -> None:
    sizes = ", ".join(str(len(group)) for group in circles) or "none"
    print(f"\n{title}: {sizes}")
    for group in circles:
        print("  " + " ".join(name.removeprefix(f"{PACKAGE}.") for name in group))


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(description="Measure the modules of this repository.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    options = parser.parse_args(arguments)
    figures = measure_house(options.root.resolve())
    if options.json:
        print(json.dumps({name: asdict(each) for name, each in figures.items()}, indent=2))
    else:
        print_table(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
