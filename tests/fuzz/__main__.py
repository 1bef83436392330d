"""Fuzz every reader: ``python -m tests.fuzz [--seconds 60] [--corpus FOLDER] [TARGET ...]``.

Coverage-guided by atheris where it is installed (``pip install atheris``), by plain mutation of the
seeds otherwise. Each target runs in a process of its own, one after another, under limits of
memory (1 GB) and time (10 s an input). What crashes is written to ``build/fuzz/TARGET/crash-*`` and
printed; found inputs of new coverage stay in the corpus folder.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import time
from pathlib import Path

KEPT = Path(__file__).parent / "corpus"
RSS_MB = 1024
TIMEOUT = 10


def main() -> None:
    """Run targets in turn and print how many inputs each survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # in the child process
    given = parser.parse_args()
    if given.one:
        _fuzz_here(given.one, given.seconds, given.corpus)
        return
    names = given.targets or _names()
    failed = [name for name in names if not _run(name, given.seconds, given.corpus)]
    if failed:
        sys.exit(f"crashed: {', '.join(failed)}")


def _names() -> list[str]:
    from tests.fuzz.targets import TARGETS

    return list(TARGETS)


def _run(name: str, seconds: float, corpus: Path) -> bool:
    """Fuzz one target in a process of its own; its executions, and whether none crashed."""
    command = [sys.executable, "-m", "tests.fuzz", "--one", name]
    command += ["--seconds", str(seconds), "--corpus", str(corpus)]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"executions: (\d+)|Done (\d+) runs|#(\d+)\s", done.stdout + done.stderr)
    counts = [int(number) for one in found for number in one if number]
    elapsed = time.monotonic() - start
    print(f"{name}: {max(counts, default=0)} executions, {elapsed:.0f} s, exit {done.returncode}")
    if done.returncode:
        print(done.stderr[-4000:])
    sys.stdout.flush()
    return done.returncode == 0


def _fuzz_here(name: str, seconds: float, corpus: Path) -> None:
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import atheris
    except ImportError:
        _mutate(name, seconds, folder)
        return
    with atheris.instrument_imports(include=["skyfold"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS, survive
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
        survive(target, seed)  # what is imported late is imported now
    arguments = [sys.argv[0], str(folder), *_kept_folder(name)]
    arguments += [f"-max_total_time={int(seconds)}", f"-rss_limit_mb={RSS_MB}"]
    arguments += [f"-timeout={TIMEOUT}", f"-artifact_prefix={folder}/", "-max_len=65536"]
    atheris.Setup(arguments, lambda data: survive(target, data) and None)
    atheris.Fuzz()


def _kept_folder(name: str) -> list[str]:
    return [str(KEPT / name)] if (KEPT / name).is_dir() else []


def _mutate(name: str, seconds: float, folder: Path) -> None:
    """Plain mutation, where there is no atheris."""
    from tests.fuzz.mutation import mutations
    from tests.fuzz.targets import TARGETS, survive

    target, stop, count = TARGETS[name], time.monotonic() + seconds, 0
    for data in mutations(target.seeds(), random.Random(time.time_ns())):
        if time.monotonic() > stop:
            break
        try:
            survive(target, data)
        except Exception:
            (folder / f"crash-{count}").write_bytes(data)
            raise
        count += 1
    print(f"executions: {count}")


if __name__ == "__main__":
    main()
