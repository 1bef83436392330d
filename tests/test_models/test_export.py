"""An exported model is data: it runs elsewhere, gives the same numbers, and has one digest."""

import json

import keras
import numpy as np
import onnx
import pytest

from models.entropy import fit_tables
from models.export import _export_by_tensorflow, export_model, measure_tolerance, to_onnx
from skyfold.errors import CorruptDataError, InvalidRequestError
from skyfold.images.network import Network, model_digest
from skyfold.layout import MODEL_FILES


@pytest.fixture(scope="module")
def exported(trained, tables, patches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    digest = export_model(trained, tables, folder, {"seed": 4}, examples=patches[0])
    return folder / digest


def read_files(folder):
    return {name: (folder / name).read_bytes() for name in MODEL_FILES}


def test_the_reader_runs_it_and_gives_what_keras_gave(exported, trained, sky):
    network = Network(read_files(exported), exported.name)
    tiles = sky[:2]
    latents = network.encode(tiles)
    assert np.mean(latents != trained.encode(tiles)) < 1e-4  # ties of rounding
    decoded, expected = network.decode(latents), trained.decode(latents)
    assert np.all(np.abs(decoded - expected) <= network.tolerance * (1 + np.abs(expected).max()))


def test_the_card_tells_tolerance_and_size(exported, trained):
    card = json.loads((exported / "card.json").read_text())
    assert card["seed"] == 4
    assert 2e-6 <= card["tolerance"]["relative"] < 1e-4
    assert card["parameters"]["decoder"] == trained.decoder.count_params()


def test_the_same_training_gives_the_same_digest(twins, patches, tmp_path):
    digests = set()
    for run, model in enumerate(twins):
        tables = fit_tables(model.encode(patches[0]))
        digests.add(export_model(model, tables, tmp_path / str(run), {}, examples=patches[0]))
    assert len(digests) == 1
    assert model_digest(read_files(tmp_path / "0" / digests.pop()))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_graphs_hold_nothing_of_where_they_were_made(exported, kind):
    model = onnx.load(exported / f"{kind}.onnx")
    assert [model.producer_name, model.doc_string, len(model.metadata_props)] == ["", "", 0]
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert all(name in ("y", "latent") or name[1:].isdecimal() for name in names)
    assert [entry.version for entry in model.opset_import] == [18]
    assert model.graph.input[0].name == {"encoder": "y", "decoder": "latent"}[kind]


def test_the_linear_model_is_exported_alike(linear, patches, tmp_path, sky):
    tables = fit_tables(linear.encode(patches[0]))
    digest = export_model(linear, tables, tmp_path, {}, examples=patches[0])
    network = Network(read_files(tmp_path / digest), digest)
    tiles = sky[:1]
    assert network.decode(network.encode(tiles)) == pytest.approx(
        linear.decode(linear.encode(tiles)), abs=1e-2
    )


def test_tables_of_another_model_are_refused(trained, patches, tmp_path):
    other = fit_tables(np.zeros((1, 8, 8, 3), np.int16))
    with pytest.raises(InvalidRequestError, match="6 channels and tables of 3"):
        export_model(trained, other, tmp_path, {}, examples=patches[0])


def test_a_graph_that_is_not_the_model_is_refused(trained, linear, patches):
    encoder = to_onnx(trained.encoder, "encoder", ("y", "latent"))
    decoder = to_onnx(linear.decoder, "decoder", ("latent", "y"))
    with pytest.raises(CorruptDataError, match="differ from the trained ones"):
        measure_tolerance(trained, encoder, decoder, patches[0])


def test_networks_of_other_backends_are_exported_by_tensorflow(trained, monkeypatch):
    """In a process of its own, to the same bytes."""
    expected = to_onnx(trained.decoder, "decoder", ("latent", "y"))
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    assert to_onnx(trained.decoder, "decoder", ("latent", "y")) == expected


def test_what_tensorflow_cannot_export_is_told(trained, tmp_path):
    """Here, a file that cannot be written: a folder has its name."""
    (tmp_path / "network.onnx").mkdir()
    with pytest.raises(CorruptDataError, match="cannot be exported by TensorFlow"):
        _export_by_tensorflow(trained.decoder, tmp_path / "network.onnx")
