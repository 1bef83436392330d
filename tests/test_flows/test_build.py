"""The whole job as Prefect flows: once, again, after damage, and from the command line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skyfold.access.seal import seal_root
from skyfold.errors import ConfigError, UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore")  # Prefect's and TensorFlow's own

TRAINING = '[training]\nmodel = "pca"\nsteps = 1\n'


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Path:
    from flows.simulate import simulate_survey

    folder = tmp_path_factory.mktemp("survey")
    path = simulate_survey(
        folder, seed=4, images=4, size=512, catalog_rows=600, minutes=0.1, damage=True
    )
    text = path.read_text()
    path.write_text(text[: text.index("[training]")] + TRAINING)
    return path


@pytest.fixture(scope="module")
def built(prefect, survey) -> str:
    from flows.build import build

    return build(str(survey))


def digests(url: str) -> dict[str, str]:
    objects = json.loads((Path(url) / "manifest.json").read_text())["objects"]
    return {key: one["sha256"] for key, one in objects.items()}


def test_build_seals_a_release_that_decodes(built, survey):
    from skyfold import open_release

    release = open_release(built)
    assert release.sealed
    assert release.verify() == {}
    assert len(release.images) == 4
    assert [Path(one["file"]).name for one in release.about["set_aside"]] == [
        "exposure_truncated.fits"
    ]
    for image_id, entry in release.images.entries.items():
        with fits.open(survey.parent / entry.file, do_not_scale_image_data=True) as hdus:
            stored = hdus[0].data
        values = release.images.read(image_id, "exact").values
        assert values.astype(stored.dtype).tobytes() == stored.tobytes()


def test_tables_are_in_the_release(built, survey):
    import pyarrow.parquet as pq

    from flows.report_data import embedded_record
    from skyfold import open_release

    release = open_release(built)
    raw = pq.read_table(survey.parent / "raw/galaxies.parquet")
    table = release.catalogs["galaxies"].read(level="exact")
    np.testing.assert_array_equal(np.asarray(table["object_id"]), raw["object_id"].to_numpy())
    pdf = release.densities["pz"].read(level="exact")
    expected = np.load(survey.parent / "raw/pz.npy")
    assert pdf.astype(expected.dtype).tobytes() == expected.tobytes()
    kinds = {row["kind"] for row in release.fidelity.rows()}
    assert kinds == {"images", "catalogs", "densities"}
    assert {a["kind"]: a["rows"] for a in embedded_record(release, [])["areas"]} == {
        "images": None,
        "catalogs": len(table),
        "densities": len(pdf),
    }
    page = (Path(built) / "report.html").read_text()
    cells = re.search(r'<th scope="row">pz</th>(.*?)</tr>', page)
    assert cells is not None
    assert f'<td class="n">{len(pdf)}</td>' in cells[1].replace(",", "")


def test_nothing_of_the_making_stays(built):
    assert not list(Path(built).rglob("_staging*"))
    assert not list(Path(built).rglob("*.partial"))
    provenance = json.loads((Path(built) / "provenance.json").read_text())
    assert provenance["model"]
    assert len(provenance["inputs"]) == 4


def test_a_sealed_release_is_left_as_it_is(built, survey):
    from flows.build import build
    from flows.encode import encode
    from flows.measure import measure
    from flows.publish import publish
    from flows.train import train
    from skyfold.errors import SealedReleaseError

    before = digests(built)
    assert build(str(survey)) == built
    for step in (train, encode, measure):
        assert not step(str(survey))
    other = survey.with_name("other.toml")
    other.write_text(survey.read_text() + "\n[levels]\nstep = 0.25\n")
    for flow in (train, encode, measure, publish, build):
        with pytest.raises(SealedReleaseError, match="cannot be changed"):
            flow(str(other))
    assert digests(built) == before


def test_steps_repeat_and_mend(prefect, survey, tmp_path):
    """Encode twice, lose a shard, encode again: the same bytes, and only what was lost is new."""
    from flows.encode import encode
    from flows.train import train

    shutil.copytree(survey.parent, tmp_path / "s", ignore=shutil.ignore_patterns("archive"))
    again = str(tmp_path / "s/survey.toml")
    train(again)
    encode(again)
    root = tmp_path / "s/archive/demo/dr1"
    shards = sorted(path for path in root.glob("images/**/c/**/*") if path.is_file())
    content = {path: path.read_bytes() for path in shards}
    written = {path: path.stat().st_mtime_ns for path in shards}
    lost = shards[len(shards) // 2]
    lost.unlink()
    encode(again)
    assert {path: path.read_bytes() for path in shards} == content
    image = lost.parts[lost.parts.index("c") + 1]
    for path in shards:
        if path.parts[path.parts.index("c") + 1] != image:
            assert path.stat().st_mtime_ns == written[path]


def test_counts_alone_are_stored_as_they_are(prefect, tmp_path):
    """No image holds noise: there is nothing to train on, and nothing to lose."""
    from flows.build import build
    from skyfold import open_release

    (tmp_path / "raw").mkdir()
    counts = [np.random.default_rng(n).poisson(0.1, (200, 300)).astype("i4") for n in range(2)]
    for number, one in enumerate(counts):
        fits.PrimaryHDU(one).writeto(tmp_path / f"raw/x{number}.fits")
    survey = tmp_path / "survey.toml"
    survey.write_text(
        '[release]\nurl = "archive/x/dr1"\n[[images]]\nset = "x"\nfiles = ["raw/*.fits"]\n'
    )
    release = open_release(build(str(survey)))
    assert {entry.mode for entry in release.images.entries.values()} == {"direct"}
    for number, one in enumerate(counts):
        np.testing.assert_array_equal(release.images.read(f"x/x{number}", "latent").values, one)
    with pytest.raises(UnknownNameError, match="exact at every level"):
        release.choose("photometry", "0.5 sigma")


def test_a_wrong_pattern_is_told_before_anything_is_trained(survey, tmp_path, monkeypatch):
    from flows import train
    from flows.job import Job

    text = survey.read_text().replace('"raw/', f'"{survey.parent}/raw/')
    (tmp_path / "survey.toml").write_text(text.replace(".fits", ".fist"))
    trained = []
    monkeypatch.setattr(train, "get_run_logger", lambda: None)
    monkeypatch.setattr(train, "train_catalogs", trained.append)
    with pytest.raises(ConfigError, match="no file matches"):
        train.prepare(Job(str(tmp_path / "survey.toml")))
    assert trained == []


def test_measuring_needs_an_encoded_release(prefect, survey, tmp_path):
    from flows.encode import encode
    from skyfold.errors import ReleaseError

    shutil.copytree(survey.parent, tmp_path / "s", ignore=shutil.ignore_patterns("archive"))
    with pytest.raises(ReleaseError, match="flows train"):
        encode(str(tmp_path / "s/survey.toml"))


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=300,
    )


def test_command_line_and_exit_codes(built, tmp_path):
    info = json.loads(run("skyfold", "info", built, "--json").stdout)
    assert info["sealed"]
    levels = info["images"]["night1"]["levels"]
    assert levels["latent"]["bpp"] < levels["sources"]["bpp"] < levels["exact"]["bpp"]
    listed = json.loads(run("skyfold", "images", built, "--json").stdout)
    assert set(listed[0]) == {"id", "set", "band", "file", "hdu", "shape", "dtype"}
    rows = json.loads(run("skyfold", "fidelity", built, "--json").stdout)
    expected = "kind set band level case measure bin n bias scatter p50 p90 p99 low high unit bytes"
    assert set(expected.split()) <= set(rows[0])
    chosen = run("skyfold", "choose", built, "photometry", "1e-9 sigma", "--json")
    assert chosen.returncode == 0
    assert json.loads(chosen.stdout)["level"] == "exact"
    assert run("skyfold", "verify", built).returncode == 0
    out = tmp_path / "x.fits"
    assert run("skyfold", "decode", built, listed[0]["id"], "-o", str(out)).returncode == 0
    assert out.exists()
    wrong = run("skyfold", "decode", built, "nothing", "-o", str(out))
    assert wrong.returncode == 1
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert "Traceback" not in wrong.stderr
    assert run("skyfold", "frobnicate").returncode == 2
    assert run("skyfold", "info", str(tmp_path)).returncode == 1
    table = tmp_path / "t.parquet"
    command = ("catalog", built, "galaxies", "--columns", "ra,mag_r", "-o", str(table))
    assert run("skyfold", *command).returncode == 0
    cone = ("catalog", built, "galaxies", "--cone", "150.1,2.2,0.02", "-o", str(table))
    assert run("skyfold", *cone).returncode == 0
    pz = tmp_path / "pz.npz"
    assert run("skyfold", "densities", built, "pz", "-o", str(pz)).returncode == 0
    assert set(np.load(pz)) == {"grid", "pdf"}


def test_refusal_and_corruption_have_exit_codes(built, tmp_path):
    copy = tmp_path / "dr1"
    shutil.copytree(built, copy)
    record = (copy / "fidelity.ecsv").read_text().splitlines()
    kept = [line for line in record if " exact " not in line]
    (copy / "fidelity.ecsv").write_text("\n".join(kept) + "\n")
    changed = run("skyfold", "choose", str(copy), "photometry", "1e-9 sigma at S/N 5-10")
    assert changed.returncode == 4
    _restate(copy, "fidelity.ecsv")
    refused = run("skyfold", "choose", str(copy), "photometry", "1e-9 sigma at S/N 5-10")
    assert refused.returncode == 3
    corrupt = run("skyfold", "verify", str(copy), "--json")
    assert corrupt.returncode == 4
    assert sorted(json.loads(corrupt.stdout)["problems"]) == ["fidelity.ecsv", "zarr.json"]


def _restate(release: Path, key: str) -> None:
    """Let the root state an object's digest as it is now; the manifest still knows better."""
    root = json.loads((release / "zarr.json").read_bytes())
    about = root["attributes"]["skyfold"]
    digests = about.pop("digests") | {key: hashlib.sha256((release / key).read_bytes()).hexdigest()}
    del about["digest"]
    (release / "zarr.json").write_bytes(seal_root(json.dumps(root).encode(), digests))
