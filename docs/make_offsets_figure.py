"""The figure of offsets: a raw frame, its background, what `sources` keeps with and without them.

    python docs/make_offsets_figure.py --demo build/demo

gives one image that `python -m flows demo` left in that folder two amplifiers, overscan, glow along
an edge and a dead column, and encodes it by the demo's model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from astropy.io import fits

import storage.images.noise_fit
from skyfold import open_release
from skyfold.noise import background_at, stripes_at
from storage.images.encoder import EncodedImage, encode_image
from storage.images.image_input import SurveyImage
from storage.survey import ImageRef

mpl.use("Agg")
import matplotlib.pyplot as plt

INK = "#22303c"
FACTS = ("blank", "mask", "variance", "gain", "time", "quant_step", "quant_method")


def main() -> None:
    """Write docs/images/offsets.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("build/demo"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images/offsets.png")
    given = parser.parse_args()
    release = open_release(given.demo / "archive/demo/dr1")
    entry = next(iter(release.images.entries.values()))
    frame, noise = _frame(fits.getdata(given.demo / entry.file).astype(float))
    network = release.network(entry.model)
    now = _encoded(frame, network)
    storage.images.noise_fit.find_stripes = lambda *_: None  # type: ignore[assignment]
    before = _encoded(frame, network)
    plt.rcParams.update({"font.size": 10, "text.color": INK})
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.7), dpi=110, layout="constrained")
    light = {"cmap": "magma", "vmin": -18, "vmax": 14}
    middle = np.median(frame)
    shown: list[tuple[str, Any, dict[str, Any]]] = [
        ("raw frame", (frame - middle) / noise, light),
        ("mesh and offsets", (_background(now, frame.shape) - middle) / noise, light),
        (_title("kept, by the mesh alone", before, frame), _kept(before, frame), {"cmap": "Greys"}),
        (_title("kept, with offsets", now, frame), _kept(now, frame), {"cmap": "Greys"}),
    ]
    for one, (title, plane, style) in zip(axes, shown, strict=True):
        one.imshow(plane, origin="lower", interpolation="nearest", **style)
        one.set_title(title)
        one.set_axis_off()
    figure.savefig(given.output, metadata={"Software": None})


def _frame(sky: Any) -> tuple[Any, float]:
    """An image as a detector of two amplifiers may read it, and the noise of its pixels."""
    noise = 1.4826 * float(np.median(np.abs(sky - np.median(sky))))
    y, x = np.indices(sky.shape)
    sky = sky + 9 * noise * (x >= sky.shape[1] // 2) + 15 * noise * np.exp(-y / 12)
    sky[:, 200] -= 8 * noise
    overscan = x >= sky.shape[1] - 60
    read = np.random.default_rng(1).normal(0, 0.4 * noise, sky.shape)
    return np.where(overscan, np.median(sky) - 14 * noise + read, sky), noise


def _encoded(pixels: Any, network: Any) -> EncodedImage:
    stored = np.rint(pixels).astype("i4")
    ref = ImageRef(id="s/raw", set="s", band="r", file="", url="", hdu=0)
    facts = dict.fromkeys(FACTS) | {"bscale": 1.0, "bzero": 0.0, "digest": ""}
    image = SurveyImage(ref=ref, stored=stored, shape=stored.shape, header=fits.Header(), **facts)
    return encode_image(image, network, 0.5)


def _background(encoded: EncodedImage, shape: tuple[int, int]) -> Any:
    assert encoded.noise is not None
    assert encoded.stripes is not None
    step, whole = encoded.noise.background_step, [slice(0, side) for side in shape]
    mesh = background_at(encoded.layers["background"], step, *whole)
    return mesh + stripes_at(encoded.stripes, step, *whole)


def _kept(encoded: EncodedImage, frame: Any) -> Any:
    ny, nx = frame.shape
    return encoded.layers["bounded"][:ny, :nx] & 1


def _title(text: str, encoded: EncodedImage, frame: Any) -> str:
    return f"{text}: {_kept(encoded, frame).mean():.0%}"


if __name__ == "__main__":
    main()
