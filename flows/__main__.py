"""The producer's command line: ``python -m flows {demo,build,deploy,gc,stack,...}``."""

from __future__ import annotations

import logging
import os
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
Night = Annotated[str | None, typer.Option(help="What {night} in it stands for: 2026-11-22.")]
Accept = Annotated[bool, typer.Option(help="Also where losses exceed those of the base release.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            envvar="SKYFOLD_DASK",
            help="Work on a Dask cluster: its scheduler's address, or local:4 for four processes.",
        ),
    ] = None,
) -> None:
    """Options of every command."""
    if dask is not None:
        os.environ["SKYFOLD_DASK"] = dask  # read when the flows are first imported
    if not debug:
        _hide_tracebacks()


@app.command()
def train(survey: Survey, night: Night = None) -> None:
    """Look at every image, hold out sky, train the model on the rest."""
    from flows.train import train as flow

    flow(_existing(survey, night), night)


@app.command()
def encode(survey: Survey, night: Night = None) -> None:
    """Encode every image, skipping what is there."""
    from flows.encode import encode as flow

    flow(_existing(survey, night), night)


@app.command()
def objects(survey: Survey, night: Night = None) -> None:
    """Find and describe the objects of every image: likeness, map, novelty."""
    from flows.objects import objects as flow

    flow(_existing(survey, night), night)


@app.command()
def measure(survey: Survey, night: Night = None) -> None:
    """Measure the loss of every science case at every level."""
    from flows.measure import measure as flow

    flow(_existing(survey, night), night)


@app.command()
def publish(survey: Survey, night: Night = None, accept: Accept = False) -> None:
    """Write report and provenance, and seal the release."""
    from flows.publish import publish as flow

    print(flow(_existing(survey, night), night, accept))


@app.command()
def build(survey: Survey, night: Night = None, accept: Accept = False) -> None:
    """Train, encode, measure, publish; what is done is skipped."""
    from flows.build import build as flow

    print(flow(_existing(survey, night), night, accept))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put survey and release.")] = Path(
        "build/demo"
    ),
    steps: Annotated[int, typer.Option(help="Steps of training.", min=1)] = 2500,
    images: Annotated[int, typer.Option(help="Images to simulate.")] = 12,
    seed: Annotated[int, typer.Option()] = 1,
    keep: Annotated[bool, typer.Option(help="Go on with what an earlier run left.")] = False,
) -> None:
    """Simulate a small survey, build its release, and look at it as a consumer would."""
    from flows.demo import run_demo

    if folder.exists() and not keep:
        shutil.rmtree(folder)
    started = time.monotonic()
    run_demo(folder, steps=steps, images=images, seed=seed)
    print(f"done in {time.monotonic() - started:.0f} s")


@app.command()
def deploy(
    notify: Annotated[
        str | None, typer.Option(help="Block told of quarantines: slack-webhook/archive.")
    ] = None,
    pool_type: Annotated[str, typer.Option(help="process, docker or kubernetes.")] = "process",
) -> None:
    """Register work pool, deployments and automations on the Prefect server in use."""
    from flows.deploy import deploy as register

    for name in register(notify=notify, pool_type=pool_type):
        print(name)


@app.command()
def gc(
    product: Annotated[str, typer.Argument(help="Folder or s3://bucket/product of releases.")],
    days: Annotated[float, typer.Option(help="Leave what was written later alone.")] = 7.0,
    delete: Annotated[bool, typer.Option(help="Remove it; without, only show it.")] = False,
    quarantined: Annotated[bool, typer.Option(help="Releases in quarantine too.")] = False,
) -> None:
    """Find what unfinished builds left in a product, and remove it."""
    from datetime import timedelta

    from skyfold.access.store import Store
    from storage.gc import find_garbage, remove_garbage

    store = Store(product)
    garbage = find_garbage(store, older_than=timedelta(days=days), quarantined=quarantined)
    for one in garbage:
        size, age = one.size / 1e6, one.age.total_seconds() / 86400
        what = f"{one.release or '.'}: {one.reason}, {len(one.keys)} objects, {size:.1f} MB"
        print(f"{what}, last written {age:.1f} days ago")
    if not garbage:
        print(f"{product}: nothing to remove")
    elif delete:
        remove_garbage(store, garbage)
        print("removed")
    else:
        print("nothing was removed; --delete removes it")


stack_app = typer.Typer(no_args_is_help=True, help="Prefect, PostgreSQL, Dask, S3 as processes.")
app.add_typer(stack_app, name="stack")
Folder = Annotated[Path, typer.Option(help="State, logs, process ids.")]
STACK = Path("build/stack")


@stack_app.command("up")
def stack_up(
    folder: Folder = STACK,
    workers: Annotated[int, typer.Option(help="Dask workers.")] = 2,
    port: Annotated[int, typer.Option(help="Of the Prefect server; 0: any.")] = 4200,
) -> None:
    """Start everything, and register the deployments."""
    from flows.stack import SECRETS, up

    stack = up(folder, workers=workers, port=port, say=print)
    print(f"in a shell that uses it: source {stack.folder / SECRETS}")


@stack_app.command("down")
def stack_down(folder: Folder = STACK) -> None:
    """Stop everything."""
    from flows.stack import Stack

    Stack.load(folder).stop()


@stack_app.command("status")
def stack_status(folder: Folder = STACK) -> None:
    """What runs."""
    from flows.stack import Stack

    stack = Stack.load(folder)
    for name, pid in stack.pids.items():
        print(f"{name:16} {pid:8} {'runs' if stack.is_alive(name) else 'has stopped'}")


def _existing(survey: Path, night: str | None) -> str:
    if not survey.is_file():
        raise typer.BadParameter(f"there is no file {survey}")
    from flows.parameters import night_of

    # a wrong configuration is told before a server is started
    load_config(survey, night_of(str(survey), night))
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
