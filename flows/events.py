"""What flows tell the server beyond their states; automations of `flows.deploy` listen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.events import emit_event
from prefect.runtime import deployment, flow_run

if TYPE_CHECKING:
    from flows.job import Job

ENCODED = "skyfold.release.encoded"
SEARCHED = "skyfold.release.searched"
MEASURED = "skyfold.release.measured"
PUBLISHED = "skyfold.release.published"
QUARANTINED = "skyfold.release.quarantined"
DRIFTED = "skyfold.model.drifted"


def emit(event: str, job: Job, payload: dict[str, Any]) -> None:
    """Tell the server what happened to a release.

    Parameters
    ----------
    event : str
        One of this module's.
    job : Job
    payload : dict
        Facts; ``url`` of the release is added.
    """
    name = job.config.release.title
    resource = {
        "prefect.resource.id": f"skyfold.release.{name}",
        "prefect.resource.name": name,
        "skyfold.survey": job.survey,
        "skyfold.night": job.night,
    }
    emit_event(event=event, resource=resource, payload=payload | {"url": job.url})


def emit_step(event: str, job: Job) -> None:
    """Tell that a step is done, if it is a run by itself: inside `build` the next one follows."""
    if deployment.id and not flow_run.parent_flow_run_id:
        emit(event, job, {})
