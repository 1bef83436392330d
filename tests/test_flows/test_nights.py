"""Nights on a base: named, referred to, compared; and where tasks run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skyfold.errors import ConfigError, QuarantineError, UnsealedReleaseError

pytestmark = pytest.mark.filterwarnings("ignore")  # Prefect's own
PCA = '[training]\nmodel = "pca"\nsteps = 1\n'


@pytest.fixture(scope="module")
def surveys(tmp_path_factory) -> Path:
    """dr1.toml holds three of four images; dr2.toml all, on dr1; night.toml one night on dr1."""
    from flows.simulate import simulate_survey

    folder = tmp_path_factory.mktemp("nights")
    text = simulate_survey(folder, seed=6, images=4, size=384, catalog_rows=60).read_text()
    text = text[: text.index("[training]")] + PCA
    first = text.replace("night1/*.fits", "night1/*_000[012]_*.fits")
    on_dr1 = text.replace('archive/demo/dr1"', 'archive/demo/dr2"\nbase = "dr1"')
    night = on_dr1.replace("demo/dr2", "demo/{night}") + "[levels]\nstep = 8.0\n"
    for name, content in {"dr1": first, "dr2": on_dr1, "night": night}.items():
        (folder / f"{name}.toml").write_text(content)
    return folder


@pytest.fixture(scope="module")
def both(prefect, surveys) -> tuple[str, str]:
    """URLs of dr1, and of dr2 which stands on it."""
    from flows.build import build

    return build(str(surveys / "dr1.toml")), build(str(surveys / "dr2.toml"))


def test_a_release_refers_to_what_its_base_holds(both):
    from skyfold import open_release

    base, release = (open_release(url) for url in both)
    held = {image_id: entry.release for image_id, entry in release.images.entries.items()}
    assert set(base.images) < set(held)
    assert {held[image_id] for image_id in base.images} == {"dr1"}
    assert [name for name in held.values() if not name] == [""]  # the fourth image is its own
    for image_id in base.images:
        for level in release.levels:
            here, there = (one.images.read(image_id, level).values for one in (release, base))
            np.testing.assert_array_equal(here, there)
        assert release.images.header(image_id) == base.images.header(image_id)
    assert release.verify() == {}


def test_nothing_is_stored_twice(both):
    manifests = [json.loads((Path(url) / "manifest.json").read_text()) for url in both]
    shards = [
        {key for key in one["objects"] if "/c/" in key and key.startswith("images/")}
        for one in manifests
    ]
    assert len(shards[1]) * 2 < len(shards[0])  # one image beside three
    assert manifests[1]["releases"] == {"dr1": manifests[0]["digest"]}


def test_tables_of_the_same_files_are_referred_to(both):
    from skyfold import open_release

    base, release = (open_release(url) for url in both)
    tables = [f"catalogs/{name}" for name in base.catalogs]
    tables += [f"densities/{name}" for name in base.densities]
    assert len(tables) == 2
    assert release.about["held"] == dict.fromkeys(tables, "dr1")
    assert base.about["held"] == {}
    stored = [key for key in release.manifest() if key.startswith(("catalogs/", "densities/"))]
    assert stored == []
    for level in ("map", "latent", "bounded", "exact"):
        for name, catalog in base.catalogs.items():
            here, there = (one.read(level=level) for one in (release.catalogs[name], catalog))
            for column in there.colnames:
                np.testing.assert_array_equal(here[column], there[column])
        for name, rows in base.densities.items():
            here, there = (one.read(level=level) for one in (release.densities[name], rows))
            np.testing.assert_array_equal(here, there)
    assert {row["set"] for row in release.fidelity.rows() if row["kind"] != "images"} == {
        row["set"] for row in base.fidelity.rows() if row["kind"] != "images"
    }


def test_tables_of_other_files_are_the_release_s_own(both, surveys):
    from flows.job import Job
    from flows.tables import held, keep_recipe

    job = Job(str(surveys / "night.toml"), "2026-11-01")
    path = next(iter(job.base.about["recipes"]))
    assert not keep_recipe(job, path, {"files": ["other"]})
    assert held(job) == {}
    job.builder.store.delete_prefix("")


def test_a_base_that_was_exchanged_is_noticed(both, tmp_path):
    import shutil

    from skyfold import open_release

    shutil.copytree(Path(both[1]).parent, tmp_path / "demo")
    manifest = tmp_path / "demo/dr1/manifest.json"
    manifest.write_text(manifest.read_text().replace('"size": ', '"size":  ', 1))
    assert "../dr1" in open_release(tmp_path / "demo/dr2").verify()


def test_a_night_that_loses_more_than_its_base_is_quarantined(both, surveys):
    from flows.build import build
    from skyfold import list_releases, open_release

    night = surveys / "night.toml"
    with pytest.raises(QuarantineError, match="is quarantined"):
        build(str(night), "2026-11-22")
    assert not (surveys / "archive/demo/2026-11-22/manifest.json").exists()
    with pytest.raises(UnsealedReleaseError, match=r"in quarantine.* losses exceed"):
        open_release(surveys / "archive/demo/2026-11-22")
    assert build(str(night), "2026-11-22", accept=True).endswith("/2026-11-22")
    listed = list_releases(surveys / "archive/demo")
    assert [one["name"] for one in listed] == ["dr1", "dr2", "2026-11-22"]
    assert listed[2]["night"] == "2026-11-22"
    assert listed[2]["base"] == "dr1"
    assert listed[0]["flow_run"]["name"].startswith("publish ")


def test_a_night_is_needed_where_the_survey_says_it(surveys):
    from storage.config import load_config

    with pytest.raises(ConfigError, match="the night is ''"):
        load_config(surveys / "night.toml")
    config = load_config(surveys / "night.toml", "n1")
    assert config.release.url == "archive/demo/n1"
    assert config.digest != load_config(surveys / "night.toml", "n2").digest


def test_an_empty_night_is_the_one_that_had_begun_when_the_run_was_scheduled(surveys, monkeypatch):
    from datetime import UTC, datetime

    import flows.parameters as parameters

    class Run:
        scheduled_start_time = datetime(2026, 11, 23, 15, tzinfo=UTC)

    monkeypatch.setattr(parameters, "flow_run", Run)
    assert parameters.night_of(str(surveys / "night.toml"), None) == "2026-11-23"
    Run.scheduled_start_time = datetime(2026, 11, 23, 11, 59, tzinfo=UTC)
    assert parameters.night_of(str(surveys / "night.toml"), "") == "2026-11-22"
    assert parameters.night_of(str(surveys / "dr1.toml"), "2026-11-22") == ""


def test_a_job_travels_as_its_configuration(surveys, tmp_path):
    import pickle
    import shutil

    from flows.job import Job

    path = tmp_path / "survey.toml"
    shutil.copy(surveys / "dr1.toml", path)
    data = pickle.dumps(Job(str(path)))
    path.unlink()
    job = pickle.loads(data)
    assert job.config.release.title == "demo/dr1"
    assert len(data) < 5000


@pytest.mark.parametrize(
    ("items", "workers", "most"),
    [(0, 2, 0), (1, 1, 1), (24, 2, 12), (1000, 2, 50), (100_000, 2, 1000), (100_000, 500, 1000)],
)
def test_any_survey_is_a_bounded_number_of_batches(items, workers, most):
    from flows.runner import batches

    runs = batches(range(items), workers)
    assert [one for run in runs for one in run] == list(range(items))
    assert len(runs) <= most
    lengths = [len(run) for run in runs]
    assert lengths == sorted(lengths, reverse=True)


def test_tables_of_the_user_interface_are_readable(monkeypatch):
    import flows.pictures as pictures

    kept: dict = {}
    monkeypatch.setattr(pictures, "create_table_artifact", lambda **given: kept.update(given))
    pictures.show_table("key", [{"bin": ">=5", "low": 1.5970788753410674, "n": 12345}], "what")
    assert kept["table"] == [{"bin": "≥5", "low": 1.597, "n": 12345}]


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_workers_end_together(workers):
    from flows.runner import batches

    ends = [0] * workers
    for run in batches(range(200), workers):  # each to whom is free first
        ends[ends.index(min(ends))] += len(run)
    assert max(ends) - min(ends) <= 1


def test_only_so_many_batches_are_in_flight(monkeypatch):
    import flows.runner as runner

    class Future:
        def __init__(self, value: int) -> None:
            self.value = value

        def result(self) -> int:
            flying.discard(self.value)
            return self.value

    class Task:
        @staticmethod
        def submit(job: None, run: int) -> Future:
            flying.add(run)
            most.append(len(flying))
            return Future(run)

    flying: set[int] = set()
    most: list[int] = []
    monkeypatch.setattr(runner, "workers", lambda: 3)
    assert list(runner.run_batches(Task, None, range(100))) == list(range(100))
    assert max(most) == 3 * runner.AHEAD


@pytest.mark.parametrize("text", ["here", "local:x", "http://host:1"])
def test_a_wrong_address_of_dask_is_told(text):
    from flows.runner import task_runner

    with pytest.raises(ConfigError, match="SKYFOLD_DASK"):
        task_runner(text)


@pytest.mark.slow
def test_dask_workers_write_the_bytes_that_threads_write(both, surveys, tmp_path):
    """The same survey on two worker processes; all but their time is the same."""
    import shutil

    from flows.encode import encode
    from flows.runner import task_runner
    from flows.train import train

    shutil.copytree(surveys, tmp_path / "s", ignore=shutil.ignore_patterns("archive"))
    survey = str(tmp_path / "s/dr1.toml")
    dask = task_runner("local:2")
    train.with_options(task_runner=dask)(survey)
    encode.with_options(task_runner=task_runner("local:2"))(survey)
    here, there = Path(both[0]), tmp_path / "s/archive/demo/dr1"
    shards = sorted(path.relative_to(here) for path in here.glob("images/**/c/**/*"))
    files = [path for path in shards if (here / path).is_file()]
    assert len(files) > 20
    for path in files:
        assert (there / path).read_bytes() == (here / path).read_bytes(), path
