"""Parameters of the flows, the night that a run is about, and its name.

Forms of the user interface show what a flow's docstring says under ``Args:``, the one style of
docstring that Prefect reads.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from prefect.runtime import flow_run
from pydantic import Field

from storage.config import needs_night

NIGHT = r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$"
NOON = timedelta(hours=12)  # a night is named by the day on which it begins

Survey = Annotated[str, Field(min_length=1)]
AtNight = Annotated[str | None, Field(pattern=NIGHT)]


def night_of(survey: str, night: str | None) -> str:
    """The night that a run is about; empty for a survey that is not described by night.

    Parameters
    ----------
    survey : str
        Path of survey.toml.
    night : str or None
        As given; None means the last that had begun when the run was scheduled, so that a run
        which is late, or tried again the next day, still does its own night.
    """
    if not needs_night(survey):
        return ""
    if night:
        return night
    scheduled = flow_run.scheduled_start_time or datetime.now(UTC)
    return (scheduled - NOON).date().isoformat()


def run_name() -> str:
    """Name of a flow run: what it does, for which survey, and for which night."""
    given = flow_run.parameters or {}
    survey = str(given.get("survey") or "survey.toml")
    path = Path(survey)
    where = path.parent.name or path.absolute().parent.name
    label = where if path.stem == "survey" else path.stem
    return " ".join(filter(None, (flow_run.flow_name, label, night_of(survey, given.get("night")))))
