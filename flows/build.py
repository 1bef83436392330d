"""Build: train, encode, measure, publish, in this order; what is done is skipped."""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.encode import encode
from flows.job import Job
from flows.measure import measure
from flows.publish import publish
from flows.train import train


@flow(name="build")
def build(survey: str) -> str:
    """Build the release of a survey, from raw files to the seal.

    Parameters
    ----------
    survey : str
        Path of survey.toml.

    Returns
    -------
    str
        URL of the release.
    """
    job = Job(survey)
    if job.is_published():
        get_run_logger().info("%s is sealed already", job.builder.store.url)
        return job.builder.store.url
    train(survey)
    encode(survey)
    measure(survey)
    return publish(survey)
