"""The figure of uneven noise: a coadd of dithered exposures, its noise, what `sources` keeps.

    python docs/make_uneven_figure.py --demo build/demo

adds noise to one image that `python -m flows demo` left in that folder, as fewer exposures would
leave it, and encodes it by the demo's model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from astropy.io import fits

from skyfold import open_release
from skyfold.images.window import Window, decode_window
from storage.images.encoder import encode_image
from storage.images.entries import describe_image
from storage.images.image_input import SurveyImage
from storage.survey import ImageRef

mpl.use("Agg")
import matplotlib.pyplot as plt

INK = "#22303c"
NOISE = {"cmap": "viridis", "vmin": 0.5, "vmax": 2.5}
EXPOSURES = 4
SHIFT = 230  # pixels from one exposure to the next
FACTS = ("blank", "mask", "variance", "gain", "time", "quant_step", "quant_method")


def main() -> None:
    """Write docs/images/uneven.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("build/demo"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images/uneven.png")
    given = parser.parse_args()
    release = open_release(given.demo / "archive/demo/dr1")
    entry = next(iter(release.images.entries.values()))
    coadd, noise = _coadd(fits.getdata(given.demo / entry.file).astype(float))
    told, plain = (_sources(coadd, one, release.network(entry.model)) for one in (noise**2, None))
    plt.rcParams.update({"font.size": 10, "text.color": INK})
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.7), dpi=110, layout="constrained")
    scale = float(np.median(noise))
    assert told.sigma is not None
    assert plain.sigma is not None
    shown: list[tuple[str, Any, dict[str, Any]]] = [
        ("coadd", coadd / scale, {"cmap": "magma", "vmin": -6, "vmax": 12}),
        ("stated noise, by a variance plane", told.sigma / scale, NOISE),
        ("stated noise, by the pixels", plain.sigma / scale, NOISE),
        ("sources", told.values / scale, {}),
    ]
    for one, (title, plane, style) in zip(axes, shown, strict=True):
        one.imshow(plane, origin="lower", interpolation="nearest", **(shown[0][2] | style))
        one.set_title(title)
        one.set_axis_off()
    figure.savefig(given.output, metadata={"Software": None})


def _coadd(sky: Any) -> tuple[Any, Any]:
    """An image as if of fewer exposures towards two of its edges, and the noise of each pixel."""
    y, x = np.indices(sky.shape)
    count = np.minimum(y // SHIFT + 1, EXPOSURES) * np.minimum(x // SHIFT + 1, EXPOSURES)
    sky = sky - np.median(sky)
    deep = 1.4826 * np.median(np.abs(sky))
    noise = deep * EXPOSURES / np.sqrt(count)
    more = np.sqrt(noise**2 - deep**2)
    return sky + np.random.default_rng(1).normal(0, 1, sky.shape) * more, noise


def _sources(pixels: Any, variance: Any, network: Any) -> Window:
    """What the level returns; byte codecs are left out, since they lose nothing."""
    stored = pixels.astype("f4")
    ref = ImageRef(id="s/coadd", set="s", band="r", file="", url="", hdu=0)
    facts = dict.fromkeys(FACTS) | {"bscale": 1.0, "bzero": 0.0, "digest": "", "variance": variance}
    image = SurveyImage(ref=ref, stored=stored, shape=stored.shape, header=fits.Header(), **facts)
    encoded = encode_image(image, network, 0.5)
    entry = encoded.described(describe_image(image, model=network.digest, step=0.5))
    layers, whole = encoded.layers, [slice(0, side) for side in stored.shape]
    return decode_window(
        entry,
        "sources",
        *whole,
        read=lambda names, *_: {n: layers[n] for n in names},
        network=network,
    )


if __name__ == "__main__":
    main()
