"""What a producer does, on the processes of `make stack`, and what a consumer sees of it.

Takes minutes, so it runs where ``SKYFOLD_STACK=1`` asks for it:
``SKYFOLD_STACK=1 python -m pytest tests/test_flows/test_stack.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
    pytest.mark.s3,
]

PATIENCE = 900.0
PAUSE = 5.0  # s between looks at a run
NIGHTS = ("2026-11-20", "2026-11-21")


@pytest.fixture(scope="module")
def surveys(tmp_path_factory) -> Path:
    """Folder of dr1.toml, of night.toml for nights like it, and coarse.toml, which loses more."""
    from flows.simulate import simulate_survey

    folder = tmp_path_factory.mktemp("survey")
    text = simulate_survey(folder, seed=4, images=4, size=512, catalog_rows=10).read_text()
    head, tail = text[: text.index("[[catalogs]]")], '[training]\nmodel = "pca"\nsteps = 1\n'
    whole = (head + tail).replace("archive/demo/dr1", "s3://skyfold/demo/dr1")
    night = whole.replace('demo/dr1"', 'demo/{night}"\nbase = "dr1"')
    files = {"dr1": whole, "night": night, "coarse": night + "[levels]\nstep = 8.0\n"}
    for name, content in files.items():
        (folder / f"{name}.toml").write_text(content)
    return folder


def ask(stack, code: str) -> str:
    """What a program prints that runs in the producer's environment."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def run(stack, deployment: str, **parameters: object) -> str:
    """Run a deployment to its end; type and name of its last state."""
    return ask(
        stack,
        "from prefect.deployments import run_deployment\n"
        f"run = run_deployment({deployment!r}, parameters={parameters!r}, timeout={PATIENCE})\n"
        "print(run.state.type.value, run.state.name)",
    )


def wait_for_run(stack, name: str) -> str:
    """State of the flow run of a name, once it has ended; its log is printed if it failed."""
    state, *logs = ask(
        stack,
        "import asyncio, sys\n"
        "from prefect.client.orchestration import get_client\n"
        "from prefect.client.schemas.filters import FlowRunFilter, LogFilter\n"
        f"chosen = FlowRunFilter.model_validate({{'name': {{'any_': [{name!r}]}}}})\n"
        "async def main():\n"
        "    async with get_client() as client:\n"
        f"        for _ in range({PATIENCE / PAUSE:.0f}):\n"
        "            for run in await client.read_flow_runs(flow_run_filter=chosen):\n"
        "                if run.state.is_final():\n"
        "                    logged = {'flow_run_id': {'any_': [run.id]}}\n"
        "                    logs = await client.read_logs(LogFilter.model_validate(logged))\n"
        "                    return run.state, [one.message for one in logs]\n"
        f"            await asyncio.sleep({PAUSE})\n"
        f"    sys.exit({f'no run {name} has ended'!r})\n"
        "state, logs = asyncio.run(main())\n"
        "print(state.type.value, state.name)\n"
        "state.is_completed() or print(*logs, sep='\\n')",
    ).splitlines()
    print(*logs, sep="\n")
    return state


@pytest.fixture(scope="module")
def dr1(stack, surveys) -> str:
    assert (
        run(stack, "build/build-release", survey=str(surveys / "dr1.toml")) == "COMPLETED Completed"
    )
    return "s3://skyfold/demo/dr1"


def as_consumer(stack, monkeypatch) -> dict:
    """Options of a consumer's file system, whose environment holds no keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    reader = stack.reader
    return {
        "endpoint_url": reader["AWS_ENDPOINT_URL"],
        "key": reader["AWS_ACCESS_KEY_ID"],
        "secret": reader["AWS_SECRET_ACCESS_KEY"],
    }


def test_a_consumer_reads_with_keys_that_cannot_write(stack, dr1, monkeypatch):
    from flows import ceph
    from skyfold import open_release
    from skyfold.access.store import Store
    from skyfold.errors import StoreUnavailableError

    options = as_consumer(stack, monkeypatch)
    release = open_release(dr1, options=options)
    assert release.verify() == {}
    assert len(release.images) == 4
    if ceph.is_installed():  # moto lets everybody in
        with pytest.raises(StoreUnavailableError):
            Store(dr1, options).write("zarr.json", b"")
        with pytest.raises(StoreUnavailableError):
            open_release(dr1, options=options | {"secret": "wrong"})


def test_a_scheduled_night_is_encoded_measured_and_published(stack, dr1, surveys, monkeypatch):
    from skyfold import list_releases, open_release

    when = datetime.now(UTC).isoformat()
    given = {"survey": str(surveys / "night.toml"), "night": NIGHTS[0]}
    ask(
        stack,
        "from datetime import datetime\n"
        "from prefect.deployments import run_deployment\n"
        f"when = datetime.fromisoformat({when!r})\n"
        f"run_deployment('encode/encode-night', parameters={given!r}, timeout=0,"
        " scheduled_time=when)",
    )
    for flow in ("encode", "objects", "measure", "publish"):
        assert wait_for_run(stack, f"{flow} night {NIGHTS[0]}") == "COMPLETED Completed"
    options = as_consumer(stack, monkeypatch)
    listed = list_releases("s3://skyfold/demo", options=options)
    assert [one["name"] for one in listed] == ["dr1", NIGHTS[0]]
    base = open_release(dr1, options=options)
    night = open_release(listed[1]["url"], options=options)
    assert {entry.release for entry in night.images.entries.values()} == {"dr1"}
    first = next(iter(night.images))
    assert (night.images.read(first).values == base.images.read(first).values).all()


def test_a_night_that_loses_more_is_quarantined_until_it_is_accepted(stack, dr1, surveys):
    given = {"survey": str(surveys / "coarse.toml"), "night": NIGHTS[1]}
    assert run(stack, "encode/encode-night", **given) == "COMPLETED Completed"
    assert wait_for_run(stack, f"publish coarse {NIGHTS[1]}") == "FAILED Quarantined"
    assert run(stack, "publish/publish-night", **given, accept=True) == "COMPLETED Completed"


def test_no_key_is_in_a_log(stack, dr1):
    secrets = [stack.environment["AWS_SECRET_ACCESS_KEY"], stack.reader["AWS_SECRET_ACCESS_KEY"]]
    for path in stack.folder.rglob("*.log"):
        text = path.read_text(errors="replace")
        assert not [one for one in secrets if one in text], path
