"""The producer's command line: ``python -m flows {demo,train,encode,measure,publish,build}``."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from skyfold.cli import run
from skyfold.errors import SkyfoldError
from storage.config import load_config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Build data releases from survey files.",
)
Survey = Annotated[Path, typer.Argument(metavar="SURVEY.toml", help="Configuration of the survey.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False) -> None:
    """Options of every command."""
    if not debug:
        _hide_tracebacks()


@app.command()
def train(survey: Survey) -> None:
    """Look at every image, hold out sky, train the model on the rest."""
    from flows.train import train as flow

    flow(_existing(survey))


@app.command()
def encode(survey: Survey) -> None:
    """Encode every image, skipping what is there."""
    from flows.encode import encode as flow

    flow(_existing(survey))


@app.command()
def measure(survey: Survey) -> None:
    """Measure the loss of every science case at every level."""
    from flows.measure import measure as flow

    flow(_existing(survey))


@app.command()
def publish(survey: Survey) -> None:
    """Write report and provenance, and seal the release."""
    from flows.publish import publish as flow

    print(flow(_existing(survey)))


@app.command()
def build(survey: Survey) -> None:
    """Train, encode, measure, publish; what is done is skipped."""
    from flows.build import build as flow

    print(flow(_existing(survey)))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put survey and release.")] = Path(
        "build/demo"
    ),
    minutes: Annotated[float, typer.Option(help="Training time.")] = 1.5,
    images: Annotated[int, typer.Option(help="Images to simulate.")] = 12,
    seed: Annotated[int, typer.Option()] = 1,
    keep: Annotated[bool, typer.Option(help="Go on with what an earlier run left.")] = False,
) -> None:
    """Simulate a small survey, build its release, and look at it as a consumer would."""
    from flows.demo import run_demo

    if folder.exists() and not keep:
        shutil.rmtree(folder)
    started = time.monotonic()
    run_demo(folder, minutes=minutes, images=images, seed=seed)
    print(f"done in {time.monotonic() - started:.0f} s")


def _existing(survey: Path) -> str:
    if not survey.is_file():
        raise typer.BadParameter(f"there is no file {survey}")
    load_config(survey)  # a wrong configuration is told before a server is started
    return str(survey.resolve())


def _hide_tracebacks() -> None:
    """Named errors are told once, at the end and in a line; other logs stay as they are."""
    engines = ("flow_runs", "task_runs", "flow_engine", "task_engine")
    for name in engines:
        logging.getLogger(f"prefect.{name}").addFilter(_is_not_named)


def _is_not_named(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return not isinstance(error, SkyfoldError)


if __name__ == "__main__":
    run(app)
