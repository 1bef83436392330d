"""Build: train, encode, objects, measure, publish, in this order; what is done is skipped."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.encode import encode
from flows.job import Job
from flows.measure import measure
from flows.objects import objects
from flows.parameters import AtNight, Survey, night_of, run_name
from flows.publish import publish
from flows.train import train
from skyfold.errors import SealedReleaseError


@flow(name="build", flow_run_name=run_name)
def build(
    survey: Survey = "survey.toml", night: AtNight = None, accept: bool = False
) -> str | State[Any]:
    """Build the release of a survey, from raw files to the seal.

    Returns the URL of the release.

    Args:
        survey: Path of survey.toml as the worker sees it; relative to the clone.
        night: Takes the place of {night} in survey.toml, such as 2026-11-22. Empty: the night that
            had begun when the run was scheduled.
        accept: Publish although losses exceed those recorded for the base release.
    """
    job = Job(survey, night_of(survey, night))
    given = (survey, job.night or None)
    try:
        if not job.is_published():
            train(*given)
            encode(*given)
            objects(*given)
            measure(*given)
    except SealedReleaseError:
        if not job.is_published():
            raise
        get_run_logger().info("another run has sealed %s", job.url)
    state = publish(*given, accept, return_state=True)
    # not its error: a quarantine is no fault of this flow, and needs no traceback
    return str(state.result()) if state.is_completed() else state
