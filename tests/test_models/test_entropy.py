"""Tables fitted to some latents code others of their kind in few bits."""

import numpy as np
import pytest
from numcodecs import Zstd

from models.entropy import fit_tables, measure_bits
from skyfold.codecs.latents import decode_latents, encode_latents
from skyfold.errors import InvalidRequestError

ZSTD = Zstd(level=19)


def zstd_bytes(latents):
    """Smallest of the layouts that hold the values."""
    planes = np.ascontiguousarray(np.moveaxis(latents, -1, 1))
    narrow = [planes.astype(np.int8)] if np.abs(latents).max() < 128 else []
    return min(len(ZSTD.encode(part)) for part in (latents, planes, *narrow))


def test_a_third_less_than_zstd_on_latents_never_seen(trained, sky):
    latents = trained.encode(sky)
    tables = fit_tables(latents[:8])
    held_out = [np.ascontiguousarray(one[np.newaxis]) for one in latents[8:]]
    coded = sum(len(encode_latents(one, tables)) for one in held_out)
    assert coded <= 0.65 * sum(zstd_bytes(one) for one in held_out)


def test_measured_bits_are_those_of_the_coder(trained, tables, sky):
    latents = trained.encode(sky[:3])
    bits = measure_bits(latents, tables)
    assert bits.shape == (6,)
    assert 8 * len(encode_latents(latents, tables)) == pytest.approx(bits.sum(), rel=0.01, abs=80)


def test_a_context_from_neighbours_and_channels_saves_bits():
    rng = np.random.default_rng(3)
    scale = np.repeat(np.repeat(rng.exponential(1, (8, 8, 8, 1)), 4, 1), 4, 2)
    latents = np.rint(rng.normal(size=(8, 32, 32, 4)) * scale**2).astype(np.int16)
    mixed = rng.permuted(latents.reshape(-1, 4), axis=0).reshape(latents.shape)
    together, apart = (
        measure_bits(part[4:], fit_tables(part[:4])).sum() for part in (latents, mixed)
    )
    assert together < 0.85 * apart


def test_an_expected_sign_saves_bits():
    ramp = np.arange(-16, 16)[:, np.newaxis, np.newaxis] / 8
    noise = np.random.default_rng(0).normal(size=(4, 32, 32, 1)) / 4
    latents = np.rint(ramp + noise).astype(np.int16)
    signs = np.sign(np.random.default_rng(1).normal(size=latents.shape)).astype(np.int16)
    smooth, torn = (measure_bits(q, fit_tables(q)).sum() for q in (latents, latents * signs))
    assert smooth < torn - 0.5 * np.count_nonzero(latents)


def test_what_was_never_seen_can_be_coded():
    tables = fit_tables(np.zeros((2, 8, 8, 2), np.int16))
    latents = np.random.default_rng(0).integers(-32768, 32768, (1, 8, 8, 2)).astype(np.int16)
    assert np.array_equal(
        decode_latents(encode_latents(latents, tables), latents.shape, tables), latents
    )


def test_the_same_latents_give_the_same_tables(trained, patches):
    latents = trained.encode(patches[0])
    assert fit_tables(latents).digest == fit_tables(latents.copy()).digest


def test_latents_of_another_kind_are_refused():
    for bad in (
        np.zeros((2, 8, 8), np.int16),
        np.zeros((0, 8, 8, 2), np.int16),
        np.zeros((1, 8, 8, 2)),
    ):
        with pytest.raises(InvalidRequestError, match="encode some tiles first"):
            fit_tables(bad)
