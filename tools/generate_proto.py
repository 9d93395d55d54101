"""Generates `proto/tunnel_pb2.py` and its stub from `proto/tunnel.proto`.

    python tools/generate_proto.py            write them
    python tools/generate_proto.py --check    write nothing; exit 1 if they are stale

Uses the protoc inside the pinned grpcio-tools of the dev dependencies, so that every machine makes
the same bytes. The schema is compiled under its import path, `tunnelfleet/proto`: protobuf keeps
one registry of file names for a whole process, and a host program may have a `tunnel.proto` too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO_DIR = Path(__file__).resolve().parent.parent / "proto"
IMPORT_DIR = "tunnelfleet/proto"
SCHEMA = "tunnel.proto"
GENERATED = ("tunnel_pb2.py", "tunnel_pb2.pyi")


def generate(schema_dir: Path) -> dict[str, str]:
    """Return the generated files for the schema in `schema_dir`, by name.

    Raises:
        subprocess.CalledProcessError: the schema does not compile, or grpcio-tools is missing.
    """
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc"),
                f"--proto_path={IMPORT_DIR}={schema_dir}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                f"{IMPORT_DIR}/{SCHEMA}",
            ],
            check=True,
        )
        return {name: (Path(out) / IMPORT_DIR / name).read_text("utf-8") for name in GENERATED}


def stale(proto_dir: Path) -> list[str]:
    """Return the names of the generated files in `proto_dir` that are not what its schema makes."""
    return [
        name
        for name, text in generate(proto_dir).items()
        if not (proto_dir / name).is_file() or (proto_dir / name).read_text("utf-8") != text
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description="Generate proto/tunnel_pb2.py and its stub.")
    parser.add_argument("--check", action="store_true", help="only fail if they are stale")
    parser.add_argument("--proto-dir", type=Path, default=PROTO_DIR, help="where the schema is")
    options = parser.parse_args(arguments)
    if options.check:
        names = stale(options.proto_dir)
        for name in names:
            print(f"{name} is stale: run `python tools/generate_proto.py`", file=sys.stderr)
        return 1 if names else 0
    for name, text in generate(options.proto_dir).items():
        (options.proto_dir / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
