"""A small release built with the real parts, without Prefect and without training."""

from __future__ import annotations

import json
from pathlib import Path

import synthetic

from skyfold import open_release
from skyfold.layout import FIDELITY_KEY, PROVENANCE_KEY
from skyfold.measure import images_to_measure, measure_image, record_of
from skyfold.network import Network, model_digest
from skyfold.store import Store
from storage.archive import archive_image, inspect_image, plan_hold_out
from storage.builder import ReleaseBuilder, plan_groups
from storage.config import load_config
from storage.survey import SetAside, find_images


def build_release(survey: Path, url: str, options: dict | None = None, *, seal: bool = True):
    """Build the images of a survey with the block cosine network; returns the set-aside list."""
    config = load_config(survey)
    refs, bad = find_images(config)
    files = synthetic.cosine_files()
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
    written = [
        archive_image(builder, network, by_id[one.id], one, options=options or {})[0]
        for one in placed
    ]
    builder.write_indexes(written)
    release = open_release(url, options=options, unsealed=True)
    measured = [(one, measure_image(release, one)) for one in images_to_measure(release)]
    builder.store.write(FIDELITY_KEY, record_of(release, measured).to_ecsv().encode())
    builder.store.write(PROVENANCE_KEY, json.dumps({"test": True}).encode())
    if seal:
        builder.seal()
    return bad
