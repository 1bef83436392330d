"""A small release built with the real parts, without Prefect and without training."""

from __future__ import annotations

import json
import time
from pathlib import Path

import synthetic

from skyfold import open_release
from skyfold.access.store import Store
from skyfold.fidelity.images import images_to_measure, measure_image, record_of
from skyfold.images.network import Network, model_digest
from skyfold.layout import FIDELITY_KEY, PROVENANCE_KEY
from storage.builder import ReleaseBuilder
from storage.config import load_config
from storage.images.archive import archive_image, inspect_image, plan_hold_out
from storage.images.entries import plan_groups
from storage.images.trial import trial_encoder
from storage.images.writer import write_indexes
from storage.survey import SetAside, find_images


def build_release(
    survey: Path,
    url: str,
    options: dict | None = None,
    *,
    seal: bool = True,
    files: dict[str, bytes] | None = None,
    inject: bool = False,
    galaxies: int = 0,
    seconds: dict[str, float] | None = None,
):
    """Build the images of a survey with the block cosine network; returns the set-aside list.

    `files` are those of another model; with `inject` the record has injected sources and
    `galaxies` of known shear, and `seconds` takes the processor time of encoding and of measuring.
    """
    config = load_config(survey)
    refs, bad = find_images(config)
    files = files or synthetic.cosine_files()
    network = Network(files, model_digest(files))
    builder = ReleaseBuilder(Store(url, options))
    builder.write_model(files)
    step = config.levels.step
    found = [inspect_image(ref, options=options or {}, step=step) for ref in refs]
    entries = [one for one in found if not isinstance(one, SetAside)]
    bad += [one for one in found if isinstance(one, SetAside)]
    placed, groups = plan_groups(entries, network.channels, network.tables)
    about = {
        "name": "test/dr1",
        "images": sorted({entry.set for entry in entries}),
        "hold_out": {name: rule.to_dict() for name, rule in plan_hold_out(entries, 1).items()},
        "set_aside": [{"file": one.file, "reason": one.reason} for one in bad],
    }
    builder.start(about, groups)
    by_id = {ref.id: ref for ref in refs}
    started = time.process_time()
    written = [
        archive_image(builder, network, by_id[one.id], one, options=options or {})[0]
        for one in placed
    ]
    encoded = time.process_time()
    write_indexes(builder, written)
    release = open_release(url, options=options, unsealed=True)
    measuring = time.process_time()
    placed_by_id = {one.id: one for one in written}
    measured = []
    for one in images_to_measure(release):
        trial = trial_encoder(by_id[one], placed_by_id[one], network, options or {})
        found = measure_image(release, one, trial if inject else None, galaxies=galaxies)
        measured.append((one, found))
    if seconds is not None:
        seconds |= {"encode": encoded - started, "measure": time.process_time() - measuring}
    builder.store.write(FIDELITY_KEY, record_of(release, measured).to_ecsv().encode())
    builder.store.write(PROVENANCE_KEY, json.dumps({"test": True}).encode())
    if seal:
        builder.seal()
    return bad
