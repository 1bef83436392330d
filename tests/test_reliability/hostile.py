"""Play hostile releases, each in a process of its own.

``python -m tests.test_reliability.hostile``.

Prints a line a case, or with ``--json FILE`` writes them: outcome, seconds, memory beyond what the
process had before, and what an audit hook saw that a reader must not do: write a file, start a
process, unpickle, or connect to another host.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 10.0  # of the processor; a case that waits instead is stopped after `HANG`
HANG = 60.0
MEMORY = 400 * 2**20  # beyond the start: libraries' own, and twice what the small release holds
ADDRESS_SPACE = 24 * 2**30  # what a fault may take before it is stopped
CANARY = Path("/tmp/skyfold-canary")
_BAD_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")


def everything(url: str, part: str) -> list[str]:
    """What a victim asks for; names of the errors met, and whether names reach a terminal raw."""
    import skyfold
    from skyfold.errors import SkyfoldError

    met: list[str] = []

    def attempt(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except SkyfoldError as error:
            met.append(type(error).__name__)
            return None

    release = attempt(lambda: skyfold.open_release(url, max_bytes=2**28))
    if release is None:
        return met
    repr(release)
    if part in ("images", "all", "names"):
        attempt(lambda: _images(release, attempt))
    if part in ("catalogs", "all", "names"):
        attempt(lambda: _catalogs(release, attempt))
    if part in ("densities", "all"):
        attempt(lambda: _densities(release, attempt))
    if part in ("record", "all"):
        attempt(lambda: release.fidelity.rows())
    if part in ("verify", "all"):
        met.extend(f"verify: {key[:40]}" for key in attempt(release.verify) or {})
    if part == "names":
        _shown(release, url)
    return met


def _images(release: Any, attempt: Callable[[Callable[[], Any]], Any]) -> None:
    for one in list(release.images)[:3]:
        for level in release.levels:
            attempt(lambda one=one, level=level: release.images.read(one, level))
        attempt(lambda one=one: release.images.header(one))
        attempt(lambda one=one: release.images.entry(one).celestial_wcs())
    attempt(release.images.table)


def _catalogs(release: Any, attempt: Callable[[Callable[[], Any]], Any]) -> None:
    for name in list(release.catalogs):
        catalog = release.catalogs[name]
        for level in catalog.levels:
            attempt(lambda catalog=catalog, level=level: catalog.read(level=level))
        attempt(lambda catalog=catalog: catalog.som)
        attempt(lambda catalog=catalog: catalog.where("mag < 22"))


def _densities(release: Any, attempt: Callable[[Callable[[], Any]], Any]) -> None:
    for name in list(release.densities):
        one = release.densities[name]
        for level in one.levels:
            attempt(lambda one=one, level=level: one.read(level=level))


def _shown(release: Any, url: str) -> None:
    """Names never reach a page as markup, nor a terminal as control characters."""
    from skyfold.cli import main

    for shown in (release, release.images):
        page = shown._repr_html_()
        assert "<script" not in page.lower()
        assert "<img src=x" not in page.lower()
    for command in (["info", url], ["images", url], ["info", url, "--json"]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main(command)
        assert "\x1b]0" not in out.getvalue()
        assert "\x1b[2J" not in out.getvalue()
        assert "\x07" not in out.getvalue()


def play(case: Any, base: Path, scratch: Path) -> dict[str, Any]:
    """One case in a forked process, killed if it hangs."""
    from tests.test_reliability.hostile_cases import reseal

    folder = scratch / "product" / "dr1"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(base, folder)
    try:
        case.change(folder)
    except LookupError as error:  # a layer that this release does not have
        told = {"met": [str(error)], "seen": []}
        return {"name": case.name, "harmless": True, "seconds": 0.0} | told
    if case.sealed_anew:
        reseal(folder)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(case, str(folder), writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        signal.setitimer(signal.ITIMER_REAL, HANG)
        try:
            told = pipe.read()
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            told = b""
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    result = json.loads(told) if told else {"fault": f"ended with status {status}"}
    return {"name": case.name, "seconds": seconds, "harmless": case.harmless} | result


def _in_child(case: Any, url: str, writer: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seen: list[str] = []
    sys.addaudithook(_watcher(seen))
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins here
    before = _status("VmRSS")
    seen.clear()
    result: dict[str, Any] = {}
    try:
        result["met"] = everything(url, case.part)
    except BaseException as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        result["fault"] = f"{type(error).__name__}: {error}"[:300] + f" at {where.name}"
    result |= {"memory": _status("VmHWM") - before, "seen": seen[:5]}
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(json.dumps(result).encode())
    os._exit(0)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _watcher(seen: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Audit hook that notes what a reader must not do."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _BAD_EVENTS:
            seen.append(f"{event} {str(arguments)[:100]}")
        elif event == "open":
            path, _, flags = arguments
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if (isinstance(flags, int) and flags & writes) and str(path) != "/dev/null":
                seen.append(f"wrote {path}")
        elif event == "socket.connect":
            seen.append(f"connected {arguments[1]}")
        elif event == "import" and "test/dr1" in str(arguments[1]):
            seen.append(f"imported {arguments[1]}")

    return hook


def is_fine(result: dict[str, Any]) -> bool:
    """Whether a case ended as it must: by name, soon, in little memory, and with nothing done."""
    quick = result["seconds"] < SECONDS and result.get("memory", 0) < MEMORY
    told = bool(result.get("met")) or result["harmless"]
    return "fault" not in result and quick and told and not result["seen"]


def run(
    base: Path, wanted: str = "", told: Callable[[dict[str, Any]], None] | None = None
) -> list[dict[str, Any]]:
    """Play every case whose name holds a text, on copies of a sealed release."""
    import pyarrow as pa  # noqa: F401 - before forking: no case pays for it

    import skyfold.access.arrays
    import skyfold.catalogs.library
    import skyfold.cli
    import skyfold.densities.library
    import skyfold.images.library
    import skyfold.images.network
    import skyfold.pages  # noqa: F401
    from tests.test_reliability.hostile_cases import cases

    signal.signal(signal.SIGALRM, _too_long)
    CANARY.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        played = []
        for case in cases():
            if wanted in case.name:
                played.append(play(case, base, Path(scratch) / "case"))
                if told is not None:
                    told(played[-1])
    assert not CANARY.exists(), "code of a release was run"
    return played


def _too_long(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    """Print every case, and exit with 1 if one did not end as it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, nargs="?", help="a sealed release of every kind")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args()
    base = given.base or _build()
    played = run(base, given.only, _tell)
    if given.json:
        given.json.write_text(json.dumps(played))
    bad = [one for one in played if not is_fine(one)]
    slowest = max(one["seconds"] for one in played)
    largest = max(one.get("memory", 0) for one in played) / 1e6
    print(f"{len(played)} cases, {len(bad)} bad; at most {slowest:.1f} s and {largest:.0f} MB")
    sys.exit(1 if bad else 0)


def _tell(one: dict[str, Any]) -> None:
    size = one.get("memory", 0) / 1e6
    told = one.get("fault") or ", ".join(sorted(set(one["met"])))[:90] or "read"
    mark = " " if is_fine(one) else "!"
    print(f"{mark} {one['name'][:70]:70} {one['seconds']:5.2f} s {size:6.0f} MB  {told}")
    if one.get("seen"):
        print(f"    {one['seen']}")
    sys.stdout.flush()


def _build() -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.test_reliability.whole_release import build

    return Path(build(Path(tempfile.mkdtemp())))


if __name__ == "__main__":
    main()
