"""Pictures and tables for the Prefect user interface: what a run found, without opening files."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_image_artifact, create_table_artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skyfold.release import DataRelease

CASES = 6  # science cases in one picture


def show_table(key: str, rows: Iterable[Mapping[str, Any]], description: str) -> None:
    """Keep a table as an artifact of the run."""
    table = [{name: _shown(value) for name, value in row.items()} for row in rows]
    create_table_artifact(key=key, table=table, description=description)


def _shown(value: Any) -> Any:
    """Four digits; and no `>=`, which the user interface takes for a quotation."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value.replace(">=", "≥") if isinstance(value, str) else value


def show_rate(release: DataRelease) -> None:
    """Keep a picture of rate against loss of each science case as an artifact of the run."""
    uri = rate_picture(release)
    if uri:
        create_image_artifact(
            image_url=uri,
            key="rate-distortion",
            description=f"Loss against bits per pixel, as recorded for {release.url}",
        )


def rate_picture(release: DataRelease) -> str:
    """PNG as data URI: a panel a science case of images; empty where none was measured."""
    import matplotlib as mpl

    mpl.use("agg")  # runs have no display
    from matplotlib.figure import Figure

    from skyfold.plot import plot_fidelity

    rows = [
        row for row in release.fidelity.rows() if row["kind"] == "images" and row["p90"] is not None
    ]
    cases = list(dict.fromkeys(row["case"] for row in rows))[:CASES]
    if not cases:
        return ""
    wide = min(len(cases), 3)
    high = -(-len(cases) // wide)
    figure = Figure(figsize=(5 * wide, 4 * high), layout="constrained")
    for number, case in enumerate(cases, 1):
        plot_fidelity(release, case, ax=figure.add_subplot(high, wide, number))
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=70)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
