"""Latents come back whatever they are, and nothing else does."""

import hashlib
import struct
import zlib

import constriction
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skyfold.codecs.latent_passes import encode_passes, find_contexts
from skyfold.codecs.latent_tables import (
    DIRECT,
    FIXED,
    SYMBOLS,
    TOTAL,
    LatentTables,
    get_tables,
    register_tables,
)
from skyfold.codecs.latents import (
    LatentsCodec,
    SparseLatentsCodec,
    decode_latents,
    decode_together,
    encode_latents,
    encode_together,
)
from skyfold.codecs.words import to_bytes
from skyfold.codecs.zarr_codec import ZarrCodec
from skyfold.compiled import readers
from skyfold.errors import CorruptDataError, InvalidRequestError, UnknownCodecError


def make_tables(channels=3, classes=4):
    """Tables of plain integers: wider where more is expected."""
    used = 2 * channels + 3
    weights = np.full((channels, 4, used), FIXED // 8, np.int16)
    sizes = np.concatenate([np.abs(np.arange(2 * DIRECT + 1) - DIRECT), np.tile(np.arange(15), 2)])
    counts = np.empty((channels, classes, 3, SYMBOLS), np.int32)
    for level in range(classes):
        raw = (1 << 20) // (1 + (8 - 2 * level) * sizes.astype(np.int64) ** 2)
        row = raw * (TOTAL // 2) // raw.sum()
        row[DIRECT] += TOTAL - row.sum()
        counts[:, level] = row
    cuts = np.tile(np.arange(1, classes, dtype=np.int32) * FIXED, (channels, 1))
    value_cuts = np.tile(np.array([40, 128], np.int32), (channels, 1))
    return LatentTables(weights, weights // 2, cuts, value_cuts, counts)


def make_latents(shape, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return np.rint(rng.standard_t(2, size=shape) * scale).clip(-32768, 32767).astype(np.int16)


TABLES = make_tables()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.int16,
        st.tuples(*[st.integers(1, n) for n in (2, 9, 9)], st.just(3)),
        elements=st.one_of(st.integers(-2, 2), st.integers(-32768, 32767)),
        fill=st.just(0),
    )
)
def test_any_latents_round_trip(latents):
    for sparse in (False, True):
        (data,) = encode_together([latents], TABLES, sparse)
        assert [data] == encode_together([latents.copy()], TABLES, sparse)
        decoded = decode_together([data], latents.shape, TABLES, sparse)
        assert decoded.dtype == np.int16
        assert np.array_equal(decoded, latents)


@pytest.mark.parametrize("sparse", [False, True])
def test_chunks_are_decoded_together_as_one_by_one(sparse):
    rng = np.random.default_rng(9)
    chunks = [
        rng.laplace(0, spread, (1, 16, 16, 3)).astype(np.int16) for spread in (1, 0, 40, 6000)
    ]
    chunks[2][:, :9, 3:] = 0
    data = encode_together(chunks, TABLES, sparse)
    assert data == [encode_together([chunk], TABLES, sparse)[0] for chunk in chunks]
    found = decode_together(data, chunks[0].shape, TABLES, sparse)
    assert np.array_equal(found, np.concatenate(chunks))
    with pytest.raises(CorruptDataError):
        decode_together([*data[:3], data[3][:-1] + b"?"], chunks[0].shape, TABLES, sparse)


def test_more_chunks_than_are_coded_together():
    rng = np.random.default_rng(12)
    chunks = [rng.laplace(0, 0.3, (2, 9, 5, 3)).round().astype(np.int16) for _ in range(70)]
    data = encode_together(chunks, TABLES, sparse=True)
    found = decode_together(data, chunks[0].shape, TABLES, sparse=True)
    assert np.array_equal(found, np.concatenate(chunks))


@pytest.mark.parametrize("part", [None, 0.3, 0.0])
def test_compiled_contexts_are_those_of_numpy(part):
    rng = np.random.default_rng(5)
    latents = (rng.standard_t(2, (3, 9, 6, 3)) * [0.4, 1, 9]).round().astype(np.int16)
    coded = None if part is None else rng.random(latents.shape[:3]) < part
    if coded is not None:
        latents[~coded] = 0
    found = []
    for one in (False, True):
        with readers(compiled=one):
            found.append(find_contexts(latents, coded, TABLES))
    for name in ("where", "starts", "values", "tables", "turned"):
        np.testing.assert_array_equal(*(getattr(one, name) for one in found))
    assert part != 0.3 or (np.unique(found[0].tables).size > 5 and found[0].turned.any())


def test_values_beyond_16_bits_are_refused():
    latents = np.full((1, 2, 2, 3), 32767, np.int16)
    coder = constriction.stream.queue.RangeEncoder()
    encode_passes(latents.astype(np.int32) + 8, None, [coder], TABLES)
    body = to_bytes(coder)
    sealed = zlib.crc32(body, zlib.crc32(TABLES.digest.encode())).to_bytes(4, "little") + body
    with pytest.raises(CorruptDataError, match="16 bits"):
        decode_latents(sealed, latents.shape, TABLES)


def test_extremes_round_trip():
    latents = np.array([-32768, 32767, -9, 9, -8, 8, 0, 1, -1], np.int16).reshape(1, 3, 1, 3)
    data = encode_latents(latents, TABLES)
    assert np.array_equal(decode_latents(data, latents.shape, TABLES), latents)


def test_zeros_cost_four_bytes_and_near_zeros_little():
    latents = np.zeros((1, 32, 32, 3), np.int16)
    assert len(encode_latents(latents, TABLES)) == 4
    latents[0, 5, 6, 1] = 3
    assert len(encode_latents(latents, TABLES)) < 32 * 32 * 3 // 8


def test_squares_of_zeros_cost_almost_nothing():
    latents = np.zeros((1, 32, 32, 3), np.int16)
    latents[:, :8, :12] = make_latents((1, 8, 12, 3), seed=4)
    alone, whole = (
        encode_together([one], TABLES, sparse=True)[0] for one in (latents[:, :8, :12], latents)
    )
    told = 8 + 64 * (0.1 * np.log2(10) + 0.9 * np.log2(10 / 9))  # bits: 6 of 64 squares are used
    assert len(whole) <= len(alone) + told / 8 + 4
    assert len(encode_latents(latents, TABLES)) > len(whole) + 40


def test_bytes_of_the_format_stay():
    mixed = (np.arange(144, dtype=np.int64) ** 3 * 40503) % 4093
    latents = np.where(mixed % 3 == 0, mixed % 21 - 10, 0).astype(np.int16).reshape(1, 8, 6, 3)
    latents[0, 2, 3] = 300, -32768, 32767
    data = encode_latents(latents, TABLES)
    assert TABLES.digest == GOLDEN_TABLES
    assert hashlib.sha256(data).hexdigest() == GOLDEN_LATENTS
    latents[:, 4:] = 0
    (data,) = encode_together([latents], TABLES, sparse=True)
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SPARSE


def test_a_decoder_written_from_the_description_reads_the_bytes():
    # one position and channel: every symbol has the same table, so that the coder stands alone
    tables = make_tables(channels=1)
    latents = np.random.default_rng(1).integers(-DIRECT, DIRECT + 1, (400, 1, 1, 1), np.int16)
    data = encode_latents(latents, tables)
    assert decode_range_coded(data[4:], tables.counts[0, 0, 0] + 1, 400) == [
        int(value) + DIRECT for value in latents.ravel()
    ]


def decode_range_coded(body, probabilities, number):
    """Range decoder in whole numbers: 32-bit words, 64-bit state, probabilities of 24 bits."""
    edges = [0, *np.cumsum(probabilities).tolist()]
    assert edges[-1] == 1 << 24
    words = list(struct.unpack(f"<{-(-len(body) // 4)}I", body + bytes(-len(body) % 4)))
    words += [0] * (number + 2)
    point = (words.pop(0) << 32) | words.pop(0)  # of the code, above the lower end of the interval
    span, symbols = (1 << 64) - 1, []
    for _ in range(number):
        scale = span >> 24
        quantile = point // scale
        symbol = max(i for i in range(len(probabilities)) if edges[i] <= quantile)
        symbols.append(symbol)
        point -= scale * edges[symbol]
        span = scale * int(probabilities[symbol])
        if span < 1 << 32:
            span, point = span << 32, (point << 32) | words.pop(0)
    return symbols


@pytest.mark.parametrize("sparse", [False, True])
def test_no_truncation_and_no_flipped_bit_is_decoded(sparse):
    latents = make_latents((1, 8, 8, 3))
    latents[:, 2:4, 5:] = 0
    (data,) = encode_together([latents], TABLES, sparse)
    damaged = [data[:size] for size in range(len(data))]
    damaged += [data + b"\0", data + b"x"]
    for place in range(0, len(data) * 8, 7):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for bad in damaged:
        with pytest.raises(CorruptDataError, match="checksum"):
            decode_together([bad], latents.shape, TABLES, sparse)


def test_bytes_of_other_tables_are_refused():
    latents = make_latents((1, 8, 8, 3))
    with pytest.raises(CorruptDataError, match="checksum"):
        decode_latents(encode_latents(latents, TABLES), latents.shape, make_tables(classes=3))


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (4, 4, 3)])
def test_latents_that_do_not_fit_the_tables_are_refused(shape):
    with pytest.raises(InvalidRequestError, match="use the model that made them"):
        encode_latents(np.zeros(shape, np.int16), TABLES)
    with pytest.raises(InvalidRequestError, match="int16"):
        encode_latents(np.zeros((1, 4, 4, 3), np.int32), TABLES)


def test_tables_round_trip_through_bytes():
    data = TABLES.to_bytes()
    again = LatentTables.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == TABLES.digest == hashlib.sha256(data).hexdigest()
    assert again.channels == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PK" + data[2:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:8] + struct.pack("<HH", 0, 4) + data[12:],
        lambda data: data[:8] + struct.pack("<HH", 65535, 65535) + data[12:],
        lambda data: data[:8] + struct.pack("<HH", 256, 64) + data[12:],
        lambda data: data[:-4] + struct.pack("<i", -1),
        lambda data: data[:-4] + struct.pack("<i", 2**30),
        lambda data: data.replace(struct.pack("<2i", 40, 128), struct.pack("<2i", 128, 40)),
    ],
)
def test_hostile_tables_are_refused(damage):
    with pytest.raises(CorruptDataError, match="fetch the model"):
        LatentTables.from_bytes(damage(TABLES.to_bytes()))


def test_tables_of_the_wrong_type_are_refused():
    wide = TABLES.counts.astype(np.int64)
    with pytest.raises(CorruptDataError, match="counts"):
        LatentTables(
            TABLES.magnitude_weights,
            TABLES.value_weights,
            TABLES.thresholds,
            TABLES.value_thresholds,
            wide,
        )


def test_unknown_tables_say_what_to_do():
    with pytest.raises(UnknownCodecError, match="open the release's model first"):
        get_tables("0" * 64)


@pytest.mark.parametrize("codec_type", [LatentsCodec, SparseLatentsCodec])
def test_zarr_stores_and_reads_latents(codec_type):
    codec = codec_type(register_tables(TABLES))
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store,
        shape=(2, 16, 16, 3),
        chunks=(1, 8, 8, 3),
        shards=(1, 16, 16, 3),
        dtype="int16",
        fill_value=0,
        serializer=ZarrCodec(codec),
        compressors=None,
    )
    latents = make_latents((2, 16, 16, 3), seed=3)
    array[:] = latents
    again = zarr.open_array(store, mode="r")
    assert np.array_equal(again[:], latents)
    assert again.metadata.codecs[0].codecs[0] == ZarrCodec(codec)
    assert codec.to_dict() == {
        "name": codec_type.codec_name,
        "configuration": {"tables": TABLES.digest},
    }


GOLDEN_TABLES = "a873b6e35e1bc1dab7c4bc772530b2d9f0323af46378f96fb3dbe28dcafad74d"
GOLDEN_SPARSE = "91195600754d7c2fa0fe66847d3855762b99c9924cad24922a9726d4f03d44c6"
GOLDEN_LATENTS = "e90fcb3f898fb41872bf4bfa0bfe3ce62d2f2580bf3f7b6a9886fe324149decc"
