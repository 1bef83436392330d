"""Registering everything on a Prefect server: work pool, limits, deployments, automations.

The deployments themselves stand in ``deploy/prefect.yaml``. What that file cannot say is here: how
one step of a night starts the next, who is told of a quarantine, and what follows drift. Running
it again changes what is there, and adds nothing twice.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.actions import RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.events import DRIFTED, ENCODED, MEASURED, QUARANTINED, SEARCHED
from skyfold.errors import ConfigError

HOME = Path(__file__).resolve().parents[1]
FILE = HOME / "deploy/prefect.yaml"
POOL = "skyfold"
TRAINING_TAG = "training"
FAILED = ("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut")
SAME = {  # parameters of the next step: those of the step that is done
    name: {
        "__prefect_kind": "jinja",
        "template": "{{ event.resource['skyfold." + name + "'] }}",
    }
    for name in ("survey", "night")
}
NEXT = {  # event, deployment that it starts, with which parameters
    "find a night's objects when it is encoded": (ENCODED, "objects/objects-night", SAME),
    "measure a night when its objects are found": (SEARCHED, "measure/measure-night", SAME),
    "publish a night when it is measured": (MEASURED, "publish/publish-night", SAME),
    "train anew when the model has aged": (DRIFTED, "train/retrain-on-drift", None),
}
ONCE = timedelta(days=7)  # how often drift may start a training


def deploy(*, notify: str | None = None, pool_type: str = "process", runs: int = 4) -> list[str]:
    """Register work pool, limits, deployments and automations on the server in use.

    Parameters
    ----------
    notify : str, optional
        Block that is told of quarantines and failures: ``<type>/<name>`` such as
        ``slack-webhook/archive``; without one nobody is told.
    pool_type : str
        Type of the work pool, if there is none yet: ``process``, ``docker``, ``kubernetes``.
    runs : int
        Flow runs that the pool may do at once, if there is none yet.

    Returns
    -------
    list of str
        Names of the deployments.

    Raises
    ------
    ConfigError
        If there is no server, it does not know the block, or it refuses a deployment.
    """
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "deploying needs a Prefect server, and PREFECT_API_URL is not set; start one with "
            "`make stack` or `prefect server start`, and set it as they say"
        )
    asyncio.run(_pool_and_limits(pool_type, runs))
    _deployments()
    return asyncio.run(_automations(notify))


async def _pool_and_limits(pool_type: str, runs: int) -> None:
    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
        except ObjectNotFound:
            description = "Flow runs of skyfold; each finds its tasks' workers by SKYFOLD_DASK."
            pool = WorkPoolCreate(
                name=POOL, type=pool_type, concurrency_limit=runs, description=description
            )
            await client.create_work_pool(pool)
        await client.create_concurrency_limit(tag=TRAINING_TAG, concurrency_limit=1)


def _deployments() -> None:
    command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    home = os.environ.get("SKYFOLD_HOME", str(HOME))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=HOME,
        env=os.environ | {"SKYFOLD_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise ConfigError(f"{FILE}: the server refused the deployments: {last}")


def names() -> list[str]:
    """Deployments of ``deploy/prefect.yaml``, as ``<flow>/<name>``."""
    found = yaml.safe_load(FILE.read_text())["deployments"]
    return [f"{one['entrypoint'].rpartition('.')[2]}/{one['name']}" for one in found]


async def _automations(notify: str | None) -> list[str]:
    async with get_client() as client:
        for name, (event, deployment, parameters) in NEXT.items():
            found = await client.read_deployment_by_name(deployment)
            start = RunDeployment(
                source="selected",
                deployment_id=found.id,
                parameters=parameters,
                job_variables=None,
            )
            trigger = _on(event, at_most_every=ONCE if event == DRIFTED else timedelta(0))
            await _register(client, f"skyfold: {name}", trigger, start)
        if notify:
            tell = await _notification(client, notify)
            await _register(client, "skyfold: tell of a quarantine", _on(QUARANTINED), tell)
            failed = _on(*FAILED)
            failed.match_related = {
                "prefect.resource.role": "tag",
                "prefect.resource.id": "prefect.tag.skyfold",
            }  # type: ignore[assignment]
            await _register(client, "skyfold: tell of a failed run", failed, tell)
    return names()


def _on(*events: str, at_most_every: timedelta = timedelta(0)) -> EventTrigger:
    return EventTrigger(
        expect=set(events), posture=Posture.Reactive, threshold=1, within=at_most_every
    )


async def _notification(client: PrefectClient, block: str) -> SendNotification:
    slug, _, name = block.partition("/")
    try:
        found = await client.read_block_document_by_name(name, slug)
    except ObjectNotFound as error:
        raise ConfigError(
            f"the server has no block {block!r}; give <type>/<name> of a notification block, such "
            "as slack-webhook/archive, and create it on the page Blocks of the user interface"
        ) from error
    return SendNotification(
        block_document_id=found.id,
        subject="skyfold: {{ event.resource.name }}",
        body="{{ event.event }}: {{ event.resource.name }}. "
        "{{ event.payload.get('reason', '') }} {{ flow_run.state.message if flow_run else '' }}",
    )


async def _register(client: PrefectClient, name: str, trigger: Any, action: Any) -> None:
    wanted = AutomationCore(name=name, trigger=trigger, actions=[action])
    for old in await client.read_automations_by_name(name):
        await client.delete_automation(old.id)
    await client.create_automation(wanted)
