"""The same bytes and pixels under other versions of Python and of the libraries.

``python -m tests.test_reliability.pythons PYTHON [PYTHON ...]``.

Each PYTHON is an interpreter that has what reads and writes releases, such as those of
``uv venv --python 3.13`` with ``requirements/produce.txt``. It builds the three small releases of
`tests.test_reliability.life` with the model given there, reads those built by this interpreter at
every level, decodes the golden files and encodes them again. Prints how many of the digests agree,
and exits with 1 if one does not. Without a PYTHON it prints its own digests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("numpy", "zarr", "numcodecs", "onnxruntime", "constriction", "pcodec", "astropy")
TIMEOUT = 600.0


def digests(product: Path | None) -> dict[str, str]:
    """SHA-256 by what it is of: objects built here, pixels read from a product, golden chunks."""
    from tests.test_reliability import life

    built = Path(tempfile.mkdtemp()) / "product"
    found = {}
    for name in life.BASES:
        life.build(built, name)
        objects = life.content(built / name)
        found |= {f"written {name}/{key}": digest for key, digest in objects.items()}
        for (image, level), pixels in life.pixels((product or built) / name).items():
            found[f"read {name} {image} {level}"] = hashlib.sha256(pixels).hexdigest()
    return found | _golden()


def _golden() -> dict[str, str]:
    from tests.test_golden import FILES, codec_of

    found = {}
    for path in FILES:
        about = json.loads(path.read_text())
        codec, data = codec_of(path.parent.name), path.with_suffix(".bin").read_bytes()
        chunk = codec.decode_chunk(data, tuple(about["shape"]), np.dtype(about["dtype"]))
        name = f"{path.parent.name} {path.stem}"
        found[f"read {name}"] = hashlib.sha256(chunk.tobytes()).hexdigest()
        found[f"written {name}"] = hashlib.sha256(codec.encode_chunk(chunk)).hexdigest()
    return found


def under(python: str, product: Path) -> tuple[str, dict[str, str]]:
    """What another interpreter is, and its digests."""
    command = [python, "-W", "ignore", "-m", "tests.test_reliability.pythons", "--product"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(product)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{python} ended with {done.returncode}: {done.stderr[-2000:]}")
    said = json.loads(done.stdout)
    return said["about"], said["digests"]


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Names of which the digests are not the same."""
    return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))


def main() -> None:
    """Compare this interpreter with others; 1 if a digest differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--product", type=Path, help="releases to read; those built, unless given")
    given = parser.parse_args()
    about = ", ".join(f"{one} {version(one)}" for one in LIBRARIES)
    about = f"Python {platform.python_version()}: {about}"
    if not given.pythons:
        print(json.dumps({"about": about, "digests": digests(given.product)}))
        return
    from tests.test_reliability import life

    product = Path(tempfile.mkdtemp()) / "product"
    for name in life.BASES:
        life.build(product, name)
    ours = digests(product)
    print(about)
    wrong = 0
    for python in given.pythons:
        said, theirs = under(python, product)
        differ = differences(ours, theirs)
        wrong += len(differ)
        print(f"{said}\n  {len(ours) - len(differ)} of {len(ours)} digests agree {differ[:5]}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
