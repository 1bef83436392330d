"""The consumer's command line: one function a command, tables for people, `--json` for scripts.

Exit codes: 0 done, 1 a failure named on standard error, 2 wrong usage, 3 no level meets the need,
4 corruption found, 5 losses measured again lie outside the recorded intervals. Tracebacks only
with `--debug`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfold.cli import fidelity, images, release, tables
from skyfold.cli.arguments import CORRUPT, FAILED, NOT_MET, OUTSIDE, settings
from skyfold.cli.terminal import say
from skyfold.errors import CorruptDataError, NeedNotMetError, SkyfoldError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CORRUPT", "FAILED", "NOT_MET", "OUTSIDE", "app", "main", "run"]

COMMANDS = (  # as the help lists them
    release.info,
    images.images,
    fidelity.fidelity,
    fidelity.measure,
    fidelity.choose,
    release.card,
    images.cutout,
    images.decode,
    tables.catalog,
    tables.objects,
    tables.densities,
    release.releases,
    release.provenance,
    release.export,
    release.verify,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look into a data release, and decode the part that you need.",
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    anonymous: Annotated[bool, typer.Option(help="Read s3:// without credentials.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 server.")] = None,
) -> None:
    """Options of every command."""
    settings.update(debug=debug, anonymous=anonymous, endpoint=endpoint)


for _command in COMMANDS:
    app.command()(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command `skyfold`."""
    run(app, argv)


def run(commands: typer.Typer, argv: Sequence[str] | None = None) -> None:
    """Run a command line; named errors become one or two lines and an exit code."""
    try:
        commands(args=argv)
    except NeedNotMetError as error:
        _fail(error)
        rows = [] if error.table is None else _rows_of(error.table)
        fidelity.print_record(rows)
        sys.exit(NOT_MET)
    except CorruptDataError as error:
        _fail(error)
        sys.exit(CORRUPT)
    except (SkyfoldError, OSError, MemoryError) as error:
        _fail(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(FAILED)


def _fail(error: BaseException) -> None:
    if settings["debug"] or "--debug" in sys.argv:
        raise error
    text = str(error)
    if isinstance(error, NeedNotMetError):
        text = text.partition("\n")[0]  # its table is printed after it
    text = " ".join(text.split()) or type(error).__name__
    say(f"{type(error).__name__}: {text}", file=sys.stderr)


def _rows_of(table: Any) -> list[dict[str, Any]]:
    from skyfold.fidelity.record import FidelityRecord

    return FidelityRecord(table).rows()
