"""A notebook as a page of the site: its text, its code, and what was printed and drawn."""

from __future__ import annotations

import json
from typing import Any


def as_markdown(text: str) -> str:
    """Markdown of a notebook's JSON (nbformat 4).

    Parameters
    ----------
    text : str
        Of an ``.ipynb`` file. Outputs are shown as they are stored; nothing is run.
    """
    cells = json.loads(text)["cells"]
    return "\n\n".join(part for cell in cells for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"]).strip()
    if cell["cell_type"] != "code":
        return [source]
    shown = [part for output in cell["outputs"] for part in _output(output)]
    return [_fence("python", source), *shown] if source else shown


def _output(output: dict[str, Any]) -> list[str]:
    if output["output_type"] == "stream":
        return [_fence("text", "".join(output["text"]))]
    data = output.get("data", {})
    if "image/png" in data:
        return [f"![picture](data:image/png;base64,{''.join(data['image/png'].split())})"]
    if "text/html" in data:
        return [_fence("{raw} html", "".join(data["text/html"]))]
    return [_fence("text", "".join(data["text/plain"]))] if "text/plain" in data else []


def _fence(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
