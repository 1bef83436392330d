"""skyfold under test: trained on other sky, written as a release, read through the client.

What is timed is what a producer and a consumer run: encoding up to the objects in the store, and
decoding from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.autoencoder import train
from models.entropy import fit_tables
from models.export import export_model
from models.patches import sample_patches
from skyfold import DataRelease, open_release
from skyfold.access.store import Store
from skyfold.images.index import ImageEntry
from skyfold.images.network import Network, model_digest
from skyfold.ladder import TILE
from skyfold.layout import MODEL_FILES
from storage.builder import ReleaseBuilder
from storage.images.encoder import encode_image
from storage.images.entries import describe_image, plan_groups
from storage.images.latent_search import searched_latents
from storage.images.prepared import NotLadderableError, prepare
from storage.images.writer import write_image, write_indexes
from storage.survey import SurveyImage
from tests.benchmarks.images import Cost, timed
from tests.benchmarks.skies import Case
from tests.benchmarks.transforms import noise_plane

PATCHES = 3000
SEED = 1
STEP = 0.5

Patches = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Model:
    """A trained network and what it took."""

    network: Network
    files: dict[str, bytes]
    minutes: float

    @property
    def reader_bytes(self) -> int:
        """Bytes that a reader needs of it, once for a release."""
        return len(self.files["decoder.onnx"]) + len(self.files["tables.bin"])


def training_patches(cases: Sequence[Case]) -> Patches:
    """Noise-unit patches of the training sky of all cases, and the weights of their pixels."""
    pairs = [pair for case in cases for one in case.training if (pair := _training_plane(one))]
    planes, masks = zip(*pairs, strict=True)
    return sample_patches(planes, masks, count=PATCHES, seed=SEED)


def _training_plane(image: SurveyImage) -> Any:
    try:
        prepared = prepare(image).with_stripes()
    except NotLadderableError:
        return None
    ny, nx = prepared.shape
    bad = prepared.fills.flags(slice(0, ny)) != 0
    return None if bad.all() else (noise_plane(prepared)[:ny, :nx], bad)


def train_model(
    patches: Patches, minutes: float, folder: Path, on_step: Callable[..., None] | None = None
) -> Model:
    """The image model of a survey, trained for so many minutes."""
    start = time.monotonic()
    trained = train(*patches, minutes=minutes, seed=SEED, on_step=on_step)
    tables = fit_tables(trained.encode(patches[0][::4]))
    card = {"minutes": minutes, "seed": SEED, "config": trained.config}
    digest = export_model(trained, tables, folder, card, examples=patches[0][:64])
    files = {name: (folder / digest / name).read_bytes() for name in MODEL_FILES}
    latents = searched_latents(Network(files, digest), patches[0], patches[1] > 0)
    files["tables.bin"] = fit_tables(latents).to_bytes()
    network = Network(files, model_digest(files))
    (folder / digest).rename(folder / network.digest)
    for name, data in files.items():
        (folder / network.digest / name).write_bytes(data)
    return Model(network, files, (time.monotonic() - start) / 60)


class Ladder:
    """A release of the test images of one kind.

    Parameters
    ----------
    folder : Path
        Where the release is written; empty or not there.
    """

    def __init__(self, folder: Path, cases: Sequence[Case], model: Model) -> None:
        self.model = model
        builder = ReleaseBuilder(Store(str(folder)))
        builder.write_model(model.files)
        network = model.network
        described = [describe_image(case.test, model=network.digest, step=STEP) for case in cases]
        placed, groups = plan_groups(described, network.channels, network.tables)
        sets = sorted({entry.set for entry in placed})
        builder.start({"name": folder.name, "images": sets, "hold_out": {}}, groups)
        network.decode(network.encode(np.zeros((1, TILE, TILE), np.float32)))  # opens its sessions
        self.costs: dict[str, Cost] = {}
        written = []
        for case, entry in zip(cases, placed, strict=True):
            work = _writing(builder, network, entry, case.test)
            one, self.costs[case.name] = timed(work, times=2)  # the first compiles
            written.append(one)
        write_indexes(builder, written)
        self.entries = {case.name: entry for case, entry in zip(cases, written, strict=True)}
        self.release: DataRelease = open_release(str(folder), unsealed=True)

    def decode(self, name: str, level: str) -> tuple[NDArray[Any], Cost]:
        """Pixels of an image at a level [stored units], and what decoding cost."""
        image_id = self.entries[name].id
        window, cost = timed(lambda: self.release.images.read(image_id, level), times=2)
        return window.values, cost

    def noise(self, name: str) -> NDArray[np.float64] | None:
        """Noise of each pixel [stored units], as the release states it; None where it has none."""
        return self.release.images.read(self.entries[name].id, "bounded").sigma


def _writing(
    builder: ReleaseBuilder, network: Network, entry: ImageEntry, image: SurveyImage
) -> Callable[[], ImageEntry]:
    return lambda: write_image(builder, entry, encode_image(image, network, entry.step))
