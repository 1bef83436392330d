"""How the commands speak: plain text, tables and bars for people, JSON for scripts, whole files."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def say(text: str, file: Any = None) -> None:
    """Print what a terminal may show of a text."""
    print(_printable(text), file=file)


def _printable(text: str) -> str:
    """Text without what a terminal obeys: names come from the release, which may be anybody's."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1, default=str, allow_nan=False))


def short(value: Any) -> str:
    """A value in a few characters."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_table(names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    """Print a table for people; a cell that is too wide for the terminal goes on below."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(str(cell))) for cell in row))  # Text: names are not markup
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def size(count: float) -> str:
    """A number of bytes with its unit."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while count >= 999.5 and unit != "TB":
        count, unit = count / 1000, next(units)
    return f"{count:.3g} {unit}"


def rate(one: dict[str, Any]) -> str:
    """Bits a pixel, or bytes a row."""
    if "bpp" in one:
        return f"{one['bpp']:.3f} bits a pixel"
    return f"{one['bytes_per_row']:.2f} bytes a row"


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal; gives what moves it: done, of all."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)
