"""Linear transforms of noise units as codecs of the lowest level: the baselines to beat.

Both stand where skyfold's network stands: they see the same noise units above the same background
mesh, are fitted on the same training sky, and their numbers are coded with frozen tables.

- *PCA*: components of 8 x 8 pixels, coded as skyfold codes latents.
- *Weighted wavelet*: CDF 9/7 (``bior4.4``), steps in noise units that grow towards fine scales,
  because an aperture averages fine noise away. Each coefficient's table is chosen by magnitudes
  that are decoded before it: its parent's, those of other orientations here, and (on every other
  place) its four neighbours'.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import constriction
import imagecodecs
import numpy as np
import pywt
from numpy.typing import NDArray

from models.entropy import fit_tables
from models.patches import source_weights
from models.pca import patch_basis
from skyfold.codecs.latent_tables import LatentTables
from skyfold.codecs.latents import decode_latents, encode_latents
from skyfold.layout import STRIDE
from skyfold.noise import noise_at, stripes_at
from storage.images.prepared import Prepared
from tests.benchmarks.images import Subject
from tests.benchmarks.peers import Peer

Plane = NDArray[np.float32]
Ints = NDArray[np.int32]
WAVELET, DEPTH = "bior4.4", 4
WEIGHTS = (1.0, 1.0, 1.2, 3.0, 9.0)  # steps of the mean and of details, coarse to fine
SCALES = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.5)
PCA_STEPS = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0)
PCA_CHANNELS = 12
DIRECT = 15  # magnitudes from here on are coded by themselves
CUTS = (1, 2, 3, 5, 8, 13, 24)  # classes of the context
PRIOR = 0.02


def noise_plane(prepared: Prepared) -> Plane:
    """Whole tiles in noise units, as one plane."""
    (ty, tx), tiles = prepared.tiles, prepared.whole().noise_units()
    side = tiles.shape[-1]
    cut = tiles.reshape(ty, tx, side, side).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut.reshape(ty * side, tx * side))


def stored_units(y: Plane, prepared: Prepared) -> NDArray[np.float64]:
    """Pixels of the image in stored units."""
    ny, nx = prepared.shape
    rows, columns = slice(0, y.shape[0]), slice(0, y.shape[1])
    noise = prepared.noise
    background = noise.background(prepared.mesh, rows, columns)
    if prepared.stripes is not None:
        background += stripes_at(prepared.stripes, noise.background_step, rows, columns)
    uneven = prepared.uneven
    factor = None if uneven is None else noise_at(uneven, rows, columns)
    return np.ldexp(background + noise.to_signal(y, factor), noise.grid_exponent)[:ny, :nx]


def mesh_bytes(prepared: Prepared) -> bytes:
    """The meshes, which a codec of noise units needs too, before its own bytes."""
    meshes = (prepared.mesh, prepared.uneven, prepared.stripes)
    plain = b"".join(one.astype("<i4").tobytes() for one in meshes if one is not None)
    data = bytes(imagecodecs.zstd_encode(plain, level=19))
    return struct.pack("<I", len(data)) + data


def after_mesh(data: bytes) -> bytes:
    """What follows the mesh."""
    (length,) = struct.unpack_from("<I", data)
    return data[4 + length :]


# Principal components.


def fit_pca(patches: Plane, weights: Plane) -> Peer:
    """PCA of noise-unit patches, shape (n, ny, nx), as a codec."""
    weighed = source_weights(patches, weights, emphasis=30.0, bright=300.0)
    basis, _ = patch_basis(patches, weighed, PCA_CHANNELS)
    tables: dict[float, LatentTables] = {}
    for step in PCA_STEPS:
        latents = np.stack([_components(patch, basis, step) for patch in patches[::10]])
        tables[step] = fit_tables(latents)

    def encode(subject: Subject, step: float) -> bytes:
        latents = _components(noise_plane(subject.prepared), basis, step)
        return mesh_bytes(subject.prepared) + encode_latents(latents[None], tables[step])

    def decode(data: bytes, subject: Subject, step: float) -> NDArray[Any]:
        ny, nx = (tiles * 256 // STRIDE for tiles in subject.prepared.tiles)
        shape = (1, ny, nx, PCA_CHANNELS)
        latents = decode_latents(after_mesh(data), shape, tables[step])[0]
        blocks = (latents * np.float32(step)) @ basis.T
        plane = blocks.reshape(ny, nx, STRIDE, STRIDE).transpose(0, 2, 1, 3)
        return stored_units(plane.reshape(ny * STRIDE, nx * STRIDE), subject.prepared)

    return Peer("PCA", PCA_STEPS, encode, decode)


def _components(plane: Plane, basis: Plane, step: float) -> NDArray[np.int16]:
    ny, nx = (side // STRIDE for side in plane.shape)
    blocks = plane.reshape(ny, STRIDE, nx, STRIDE).transpose(0, 2, 1, 3).reshape(ny, nx, -1)
    return np.clip(np.rint(blocks @ (basis / step)), -32768, 32767).astype(np.int16)


# The weighted wavelet.


def fit_wavelet(patches: Plane) -> Peer:
    """The weighted wavelet with tables of noise-unit patches, shape (n, ny, nx)."""
    coders = {scale: WaveletCoder(scale) for scale in SCALES}
    for coder in coders.values():
        coder.fit(patches)

    def encode(subject: Subject, scale: float) -> bytes:
        plane = noise_plane(subject.prepared)
        return mesh_bytes(subject.prepared) + coders[scale].encode(plane)

    def decode(data: bytes, subject: Subject, scale: float) -> NDArray[Any]:
        ny, nx = (tiles * 256 for tiles in subject.prepared.tiles)
        plane = coders[scale].decode(after_mesh(data), (ny, nx))
        return stored_units(plane, subject.prepared)

    return Peer("wavelet", SCALES, encode, decode)


@dataclass
class WaveletCoder:
    """Coder of planes whose sides are multiples of 32; `scale` multiplies all steps."""

    scale: float
    counts: dict[tuple[int, int, int], NDArray[np.float64]] = field(default_factory=dict)

    def fit(self, planes: Sequence[Plane] | Plane) -> None:
        """Count symbols in every context, on planes like those to come."""
        for plane in planes:
            for place, symbols in _grouped(self._quantised(plane)):
                seen = np.bincount(symbols, minlength=2 * DIRECT + 1)
                self.counts[place] = seen + self.counts.get(place, np.zeros(2 * DIRECT + 1))

    def encode(self, plane: Plane) -> bytes:
        """Bytes of a plane in noise units."""
        encoder = constriction.stream.queue.RangeEncoder()
        bands = self._quantised(plane)
        for place, symbols in _grouped(bands):
            encoder.encode(symbols.astype(np.int32), self._model(place))
        body = encoder.get_compressed().astype("<u4").tobytes()
        values = np.concatenate([band.ravel() for band in bands])
        rest = np.abs(values[np.abs(values) >= DIRECT]) - DIRECT
        tail = bytes(imagecodecs.pcodec_encode(rest, level=8)) if rest.size else b""
        return struct.pack("<II", len(body), rest.size) + body + tail

    def decode(self, data: bytes, shape: tuple[int, int]) -> Plane:
        """Inverse of `encode`, but for rounding."""
        length, count = struct.unpack_from("<II", data)
        words = np.frombuffer(data[8 : 8 + length], "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        bands: list[Ints] = []
        for number, side in enumerate(_sides(shape)):
            band = np.zeros(side, np.int32)
            for half in (0, 1):
                self._decode_half(decoder, bands, band, number, half)
            bands.append(band)
        if count:
            rest = imagecodecs.pcodec_decode(data[8 + length :], shape=(count,), dtype=np.int32)
            _add_rest(bands, rest)
        return self._restored(bands, shape)

    def _decode_half(
        self, decoder: Any, bands: list[Ints], band: Ints, number: int, half: int
    ) -> None:
        where = _checker(band.shape) == half
        classes = _classes([*bands, band], number, half)[where]
        values = np.zeros(classes.size, np.int32)
        for one in np.unique(classes):
            chosen = classes == one
            model = self._model((number, half, int(one)))
            values[chosen] = decoder.decode(model, int(chosen.sum())) - DIRECT
        band[where] = values

    def _model(self, place: tuple[int, int, int]) -> Any:
        seen = self.counts.get(place, np.zeros(2 * DIRECT + 1))
        fallback = 0.5 ** np.abs(np.arange(-DIRECT, DIRECT + 1))
        odds = seen + PRIOR * max(seen.sum(), 50.0) * 0.01 * fallback + 1e-3
        return constriction.stream.model.Categorical(odds / odds.sum(), perfect=False)

    def _steps(self) -> list[float]:
        weights = [WEIGHTS[0], *np.repeat(WEIGHTS[1:], 3)]
        return [self.scale * float(weight) for weight in weights]

    def _quantised(self, plane: Plane) -> list[Ints]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a training patch is all edge at this depth
            mean, *details = pywt.wavedec2(plane, WAVELET, mode="periodization", level=DEPTH)
        bands = [mean, *(band for level in details for band in level)]
        pairs = zip(bands, self._steps(), strict=True)
        return [np.rint(band / step).astype(np.int32) for band, step in pairs]

    def _restored(self, bands: list[Ints], shape: tuple[int, int]) -> Plane:
        scaled = [band * step for band, step in zip(bands, self._steps(), strict=True)]
        levels = [tuple(scaled[i : i + 3]) for i in range(1, len(scaled), 3)]
        plane = pywt.waverec2([scaled[0], *levels], WAVELET, mode="periodization")
        return np.asarray(plane[: shape[0], : shape[1]], np.float32)


def _sides(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Shapes of bands, coarse to fine: the mean, then three details of each level."""
    yield shape[0] >> DEPTH, shape[1] >> DEPTH
    for level in range(DEPTH, 0, -1):
        yield from 3 * [(shape[0] >> level, shape[1] >> level)]


def _grouped(bands: list[Ints]) -> Iterator[tuple[tuple[int, int, int], Ints]]:
    """Symbols of every band, half and class, in coding order."""
    for number, band in enumerate(bands):
        symbols = np.clip(band, -DIRECT, DIRECT) + DIRECT
        for half in (0, 1):
            where = _checker(band.shape) == half
            classes = _classes(bands, number, half)[where]
            for one in np.unique(classes):
                yield (number, half, int(one)), symbols[where][classes == one]


def _classes(bands: list[Ints], number: int, half: int) -> Ints:
    """Class of each place of a band, from magnitudes decoded before it."""
    known = np.zeros(bands[number].shape, np.int32)
    orientation = (number - 1) % 3
    if number > 3:
        known += 2 * np.kron(_size(bands[number - 3]), np.ones((2, 2), np.int32))
    for other in range(orientation if number else 0):
        known += 2 * _size(bands[number - 1 - other])
    if half:
        padded = np.pad(_size(bands[number]), 1)
        cross = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        known += cross
    elif number > 3:
        padded = np.pad(_size(bands[number - 3]), 1)
        cross = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        known += np.kron(cross, np.ones((2, 2), np.int32))
    return np.searchsorted(CUTS, known, side="right").astype(np.int32)


def _size(band: Ints) -> Ints:
    return np.minimum(np.abs(band), DIRECT)


def _checker(shape: tuple[int, ...]) -> NDArray[Any]:
    return np.indices(shape).sum(0) % 2


def _add_rest(bands: list[Ints], rest: Ints) -> None:
    """Put back what magnitudes have beyond `DIRECT`."""
    start = 0
    for band in bands:
        large = np.abs(band) >= DIRECT
        more = rest[start : start + int(large.sum())]
        band[large] += np.sign(band[large]) * more
        start += more.size
