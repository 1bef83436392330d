"""A second decoder of a release's images, written from docs/format.md and from nothing else.

It reads plain files, and shares no line with the package: what both agree on is what the document
says. Clarity comes before speed; errors are left to Python.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from independent_interlaced import decode_interlaced, decode_skewed, decode_tagged
from independent_kept import decode_kept
from pcodec import standalone

TILE, BLOCK, MESH, STRIDE = 256, 8, 64, 8
LEVELS = ("latent", "sources", "bounded", "exact")
NOTHING = 2**64 - 1


class Archive:
    """A release in a local folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        root = json.loads((self.folder / "zarr.json").read_text())
        self.about = root["attributes"]["skyfold"]
        assert self.about["format"] == 1
        self.arrays = root["consolidated_metadata"]["metadata"]
        self.images = {
            row["id"]: row
            for name in self.about["images"]
            for row in pq.read_table(
                io.BytesIO((self.folder / f"images/{name}/index.parquet").read_bytes())
            ).to_pylist()
        }
        self.models: dict[str, Model] = {}

    def model(self, digest: str) -> Model:
        if digest not in self.models:
            self.models[digest] = Model(self.folder / "models" / digest, digest)
        return self.models[digest]

    def details(self, image_id: str) -> tuple[dict[int, dict[int, tuple[int, int]]], list[str]]:
        """Offset and length of each chunk by layer number and tile, and the cards of the header."""
        row = self.images[image_id]
        first, places, header = row["details"]
        data = (self.folder / f"images/{row['set']}/details.bin").read_bytes()[first:]
        plain, at = zlib.decompress(data[:places]), 0
        found: dict[int, dict[int, tuple[int, int]]] = {}
        while at < len(plain):
            layer, count = plain[at], int.from_bytes(plain[at + 1 : at + 5], "little")
            tiles, lengths = np.frombuffer(plain, "<u4", 2 * count, at + 5).reshape(2, -1).tolist()
            starts = np.cumsum([0, *lengths]).tolist()
            spans = zip(starts, lengths, strict=False)
            found[layer] = dict(zip(tiles, spans, strict=False))
            at += 5 + 8 * count
        return found, zlib.decompress(data[places : places + header]).decode().split("\n")

    def check_manifest(self) -> int:
        """Number of objects whose size and digest are as the manifest states."""
        manifest = json.loads((self.folder / "manifest.json").read_text())
        objects = manifest["objects"]
        text = json.dumps(objects, sort_keys=True, separators=(",", ":"))
        assert manifest["digest"] == hashlib.sha256(text.encode()).hexdigest()
        for key, stated in objects.items():
            data = (self.folder / key).read_bytes()
            assert stated == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return len(objects)

    def decode(self, image_id: str, level: str) -> np.ndarray:
        """Whole image of shape (rows, columns) in stored units; `bounded` or `exact`."""
        image = Image(self, self.images[image_id])
        nx = image.row["shape"][-1]
        ny = int(np.prod(image.row["shape"])) // nx
        ty, tx = -(-ny // TILE), -(-nx // TILE)
        out = np.empty((ty * TILE, tx * TILE), image.dtype)
        for y, x in np.ndindex(ty, tx):
            tile = image.tile(y, x, level, (ny - y * TILE, nx - x * TILE))
            out[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = tile
        return out[:ny, :nx]


class Image:
    """One image: its row of the index, and its layers tile by tile."""

    def __init__(self, archive: Archive, row: dict) -> None:
        self.archive, self.row = archive, row
        self.dtype = np.dtype(row["dtype"])
        self.is_float = self.dtype.kind == "f"
        self.fills = np.frombuffer(row["fills"], self.dtype.newbyteorder("<")).astype(self.dtype)

    def layer(self, name: str, ty: int, tx: int) -> np.ndarray:
        """Chunk of a layer, without the axis of images."""
        path = f"images/{self.row['set']}/{self.row['group']}/{name}"
        meta = self.archive.arrays[path]
        folder = self.archive.folder / path / "c" / str(self.row["row"])
        rank = len(meta["shape"])
        shard = folder.joinpath(*["0"] * (rank - 1))
        data = shard.read_bytes() if shard.exists() else None
        codecs = meta["codecs"]
        shape = meta["chunk_grid"]["configuration"]["chunk_shape"]
        if codecs[0]["name"] == "sharding_indexed":
            grid = [side // part for side, part in zip(shape, _inner(codecs[0]), strict=True)]
            data = None if data is None else inner_chunk(data, ty * grid[2] + tx, np.prod(grid))
            shape, codecs = _inner(codecs[0]), codecs[0]["configuration"]["codecs"]
        dtype = np.dtype(meta["data_type"])
        if data is None:
            return np.zeros(shape[1:], dtype)
        return self._decode_chunk(data, codecs, tuple(shape[1:]), dtype)

    def _decode_chunk(
        self, data: bytes, codecs: list[dict], shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        first = codecs[0]["name"]
        if first == "skyfold.sparse":
            return decode_sparse(data, shape)
        if first == "skyfold.blocks":
            return decode_blocks(data, shape, dtype)
        if first == "skyfold.interlaced":
            blocks = partial(decode_blocks, shape=shape, dtype=dtype)
            return decode_interlaced(data, shape, blocks).astype(dtype)
        if first == "skyfold.skewed":
            blocks = partial(decode_blocks, shape=shape, dtype=dtype)
            return decode_skewed(data, shape, blocks).astype(dtype)
        if first == "skyfold.kept":
            blocks = partial(decode_blocks, shape=shape, dtype=dtype)
            return decode_kept(data, shape, blocks).astype(dtype)
        if first == "skyfold.tagged":
            blocks = partial(decode_blocks, shape=shape, dtype=dtype)
            return decode_tagged(data, shape, blocks).astype(dtype)
        if first in ("skyfold.latents", "skyfold.sparse_latents"):
            model = self.archive.model(self.row["model"])
            assert codecs[0]["configuration"]["tables"] == model.tables.digest
            return model.tables.decode(data, shape, sparse="sparse" in first)
        size = int(np.prod(shape)) * dtype.itemsize
        if len(codecs) > 1:
            data = pa.decompress(data, size, codec="zstd").to_pybytes()
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)

    def tile(self, ty: int, tx: int, level: str, extent: tuple[int, int]) -> np.ndarray:
        """One tile of 256 x 256 pixels in the stored dtype, checked."""
        expected = self.layer("checksum", 0, 0)[ty, tx]
        flags = self.layer("flags", ty, tx)
        mode = self.row["mode"]
        by_itself = {"direct": 0, "sources+direct": 2, "ladder+direct": 3, "ladder": 4}[mode]
        if ("latent", "sources", "bounded", "exact").index(level) >= by_itself:
            values = self.layer("direct", ty, tx)
            assert checksum(values, extent) == expected[3]
            return values
        predicted, width = self._predict(ty, tx, expected[0], extent)
        cells = self.layer("sources", ty, tx).astype(np.int64)
        shift = self._shift(width)
        used = (cells.reshape(128, 2, 128, 2) != 0).any(axis=(1, 3))
        leaves = np.kron(used, np.ones((2, 2), int))
        bounded, coarse = self.layer("bounded", ty, tx), self.row.get("coarse")
        if coarse is None:
            kept = predicted + shift * leaves + cells * width
        else:
            kept = 4 * (predicted + shift * leaves) + cells * coarse * width
            if self.row.get("glowing"):
                step = self.row["noise"]["background_step"]
                glow = self._bilinear("glow", 8, ty, tx) * (64 * step / 16**2)
                kept += np.rint(4 * glow).astype(np.int64)
            cells, bounded = (cells * coarse + 2) // 4, bounded // 2
        assert checksum(kept, extent) == expected[1]
        centres = predicted + shift + (cells + bounded) * width
        assert checksum(centres, extent) == expected[2]
        bounded = self._filled(self._from_grid(centres), flags)
        if level == "bounded":
            return bounded
        rest = self.layer("exact", ty, tx)
        if self.is_float:
            values = self._requantised(add_ordered(bounded, rest), bounded, rest, flags, ty, tx)
        else:
            row, column = np.indices(width.shape)
            below = (width - (row + column) % 2) // 2
            values = self._filled((centres - below + rest).astype(self.dtype), flags)
        assert checksum(values, extent) == expected[3]
        return values

    def _requantised(self, values, bounded, rest, flags, ty: int, tx: int) -> np.ndarray:
        """Floats of a compressed file, from its integers."""
        quantum = self.row["quantum"]
        if quantum is None:
            return values
        scales, zeros = self.layer("quantum", 0, 0)
        nx = self.row["shape"][-1]
        ny = int(np.prod(self.row["shape"])) // nx
        height, width = quantum["rows"], quantum["columns"]
        for row in range(ty * TILE, min(ty * TILE + TILE, ny)):
            for left in range(0, nx, width):
                tile = row // height * -(-nx // width) + left // width
                x = np.arange(max(left, tx * TILE), min(left + width, nx, tx * TILE + TILE))
                if not len(x) or not scales[tile]:
                    continue
                here = (row - ty * TILE, x - tx * TILE)
                inside = (row % height) * min(width, nx - left) + x - left
                off = 0.0
                if quantum["is_dithered"]:
                    off = dithers(tile + quantum["seed"], inside[-1] + 1)[inside] - 0.5
                use = flags[here] < 2
                v = np.where(use, bounded[here], 0).astype(np.float64)
                q = np.rint((v - zeros[tile]) / scales[tile] + off)
                q = np.where(np.abs(q) < 2**52, q, 0) + rest[here]
                found = ((q - off) * scales[tile] + zeros[tile]).astype(self.dtype)
                found[rest[here] == -(2**31)] = 0
                values[here] = np.where(use, found, values[here])
        return values

    def _predict(
        self, ty: int, tx: int, expected: int, extent: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """M and w."""
        noise = self.row["noise"]
        y = self.archive.model(self.row["model"]).run(self.layer("latent", ty, tx))
        factor = 1.0
        if self.row.get("uneven"):
            cells = self.layer("noise", 0, 0)[8 * ty : 8 * ty + 8, 8 * tx : 8 * tx + 8]
            factor = np.kron(1 + cells / 256, np.ones((32, 32)))
        y = np.clip(np.nan_to_num(y.astype(np.float64), nan=0.0) * factor, -2048, 2048)
        signal = noise["sigma"] * (y + (noise["stretch"] / 4) * y * np.maximum(y, 0))
        background = self._background(ty, tx)
        steps = (background + signal) / noise["round_step"]
        rounded = apply_guard(steps, self.layer("guard", ty, tx))
        predicted = rounded * noise["round_step"]
        assert checksum(predicted, extent) == expected
        own = factor if noise["of_sky"] else 1.0
        variance = (noise["sigma"] * own) * (noise["sigma"] * own) + noise["slope"] * np.maximum(
            predicted - background, 0.0
        )
        sigma = np.sqrt(variance) * (1.0 if noise["of_sky"] else factor)
        width = np.floor(self.row["step"] * sigma).astype(np.int64)
        if self.is_float:
            width -= 1
        if self.dtype == np.float32:
            width -= np.abs(predicted) // 2**22
        if not self.is_float and self.row.get("odd_cells"):
            width += width % 2 == 0
        return predicted, np.maximum(width, 1)

    def _shift(self, width: np.ndarray) -> np.ndarray:
        """d of each pixel."""
        if not self.row.get("dithered"):
            return np.zeros_like(width)
        row, column = np.indices(width.shape)
        return (49471 * column + 37345 * row) % 65536 * width // 65536 - width // 2

    def _background(self, ty: int, tx: int) -> np.ndarray:
        step = self.row["noise"]["background_step"]
        background = self._bilinear("background", MESH, ty, tx) * (step / 128**2)
        background += float(self.row["noise"]["origin"])
        if self.row.get("striped"):
            offsets = self.layer("stripes", 0, 0) * 8.0
            rows, columns = (offsets[axis, at * TILE :][:TILE] for axis, at in ((0, ty), (1, tx)))
            background = background + (rows[:, None] + columns) * step
        return background

    def _bilinear(self, layer: str, cell: int, ty: int, tx: int) -> np.ndarray:
        nodes = self.layer(layer, 0, 0).astype(np.float64)

        def between(start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            low, part = np.divmod(2 * np.arange(start, start + TILE) + 1 - cell, 2 * cell)
            return np.clip(low, 0, count - 1), np.clip(low + 1, 0, count - 1), part

        low, high, part = between(ty * TILE, nodes.shape[0])
        rows = nodes[low] * (2 * cell - part[:, None]) + nodes[high] * part[:, None]
        low, high, part = between(tx * TILE, nodes.shape[1])
        return rows[:, low] * (2 * cell - part) + rows[:, high] * part

    def _from_grid(self, grid: np.ndarray) -> np.ndarray:
        if self.is_float:
            return np.ldexp(grid.astype(np.float64), self.row["noise"]["grid_exponent"]).astype(
                self.dtype
            )
        limits = np.iinfo(self.dtype)
        return np.clip(grid, limits.min, limits.max).astype(self.dtype)

    def _filled(self, values: np.ndarray, flags: np.ndarray) -> np.ndarray:
        for number, fill in enumerate(self.fills, 2):
            values[flags == number] = fill
        return values


@cache
def random_numbers() -> np.ndarray:
    state, found = 1, []
    for _ in range(10000):
        state = 16807 * state % (2**31 - 1)
        found.append(np.float32(state / (2**31 - 1)))
    return np.array(found)


def dithers(tile: int, count: int) -> np.ndarray:
    numbers, i, found = random_numbers(), (tile - 1) % 10000, np.empty(0)
    while len(found) < count:
        found = np.append(found, numbers[int(np.float32(500) * numbers[i]) :].astype(np.float64))
        i = (i + 1) % 10000
    return found


class Model:
    """Decoder network and entropy tables."""

    def __init__(self, folder: Path, digest: str) -> None:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        lines = "".join(f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n" for n in sorted(files))
        assert hashlib.sha256(lines.encode()).hexdigest() == digest
        self.tables = Tables(files["tables.bin"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            files["decoder.onnx"], options, providers=["CPUExecutionProvider"]
        )

    def run(self, latents: np.ndarray) -> np.ndarray:
        name = self.session.get_inputs()[0].name
        batch = latents[np.newaxis].astype(np.float32)
        return self.session.run(None, {name: batch})[0][0, ..., 0]


class Tables:
    """Integer tables of `skyfold.latents` and `skyfold.sparse_latents`."""

    def __init__(self, data: bytes) -> None:
        self.digest = hashlib.sha256(data).hexdigest()
        assert data[:8] == b"SKYLAT01"
        self.channels, classes = np.frombuffer(data, "<u2", 2, 8).tolist()
        c, at = self.channels, 12

        def take(shape: tuple[int, ...], dtype: str) -> np.ndarray:
            nonlocal at
            part = np.frombuffer(data, dtype, int(np.prod(shape)), at).reshape(shape)
            at += part.nbytes
            return part.astype(np.int64)

        self.magnitude_weights = take((c, 4, 2 * c + 3), "<i2")
        self.value_weights = take((c, 4, 2 * c + 3), "<i2")
        self.thresholds = take((c, classes - 1), "<i4")
        self.value_thresholds = take((c, 2), "<i4")
        self.counts = take((c, classes, 3, 47), "<i4")
        assert at == len(data)

    def decode(self, data: bytes, shape: tuple[int, ...], sparse: bool) -> np.ndarray:
        channels = shape[-1]
        out = np.zeros(shape, np.int64)
        crc = zlib.crc32(data[4:], zlib.crc32(self.digest.encode()))
        assert crc == int.from_bytes(data[:4], "little")
        if len(data) == 4:
            return out
        coder, coded = RangeDecoder(data[4 + sparse :]), np.ones(shape[:2], bool)
        if sparse:
            true, (ny, nx) = (2 * data[4] + 1) * 2**15, (-(-side // 4) for side in shape[:2])
            squares = [coder.symbol(np.array([2**24 - true, true])) for _ in range(ny * nx)]
            whole = np.kron(np.reshape(squares, (ny, nx)), np.ones((4, 4), int))
            coded = whole[: shape[0], : shape[1]] == 1
        for channel in range(channels):
            for step, (y, x) in enumerate(((0, 0), (1, 1), (0, 1), (1, 0))):
                table, turned = self._contexts(out, channel, step, (y, x))
                values, used = np.zeros_like(table), coded[y::2, x::2]
                values[used] = self._pass(coder, channel, table[used])
                out[y::2, x::2, channel] = np.where(turned, -values, values)
        return out

    def _contexts(
        self, known: np.ndarray, channel: int, step: int, start: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Table of each symbol of a pass, and whether its sign is turned."""
        clipped = np.clip(known[..., : channel + 1], -15, 15)
        features = [], []
        for kind, planes in zip(features, (np.abs(clipped), clipped), strict=True):
            edges, corners = neighbours(planes[..., channel])
            kind += [np.ones_like(edges), edges, corners]
            for earlier in range(channel):
                edges, corners = neighbours(planes[..., earlier])
                kind += [planes[..., earlier], edges + corners]
        y, x = start
        used = 2 * channel + 3
        magnitude, value = (
            np.tensordot(weights[channel, step, :used], np.array(kind)[:, y::2, x::2], 1)
            for weights, kind in zip(
                (self.magnitude_weights, self.value_weights), features, strict=True
            )
        )
        size = np.searchsorted(self.thresholds[channel], magnitude, side="right")
        side = np.searchsorted(self.value_thresholds[channel], np.abs(value), side="right")
        return size * 3 + side, (value < 0) & (side > 0)

    def _pass(self, coder: RangeDecoder, channel: int, table: np.ndarray) -> np.ndarray:
        order = np.argsort(table, kind="stable")
        symbols = np.empty(len(order), np.int64)
        for place, number in enumerate(table[order].tolist()):
            size, side = divmod(number, 3)
            symbols[place] = coder.symbol(self.counts[channel, size, side] + 1)
        values = symbols - 8
        tail = symbols - 17
        for bits in range(15):
            for place in np.flatnonzero((tail >= 0) & (tail % 15 == bits)):
                excess = 2**bits + (coder.plain(bits) if bits else 0)
                values[place] = (8 + excess) * (1 if tail[place] < 15 else -1)
        out = np.empty_like(values)
        out[order] = values
        return out


class RangeDecoder:
    """Range decoder of 32-bit words with 64 bits of state."""

    def __init__(self, data: bytes) -> None:
        self.words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").tolist()
        self.at = 0
        self.lower, self.range = 0, 2**64 - 1
        self.point = self._next() << 32 | self._next()

    def _next(self) -> int:
        self.at += 1
        return self.words[self.at - 1] if self.at <= len(self.words) else 0

    def _take(self, start: int, size: int) -> None:
        scale = self.range >> 24
        self.lower = (self.lower + scale * start) % 2**64
        self.range = scale * size
        if self.range < 2**32:
            self.lower = (self.lower << 32) % 2**64
            self.range <<= 32
            self.point = (self.point << 32) % 2**64 | self._next()

    def _quantile(self) -> int:
        return ((self.point - self.lower) % 2**64) // (self.range >> 24)

    def symbol(self, sizes: np.ndarray) -> int:
        """Number of the symbol, each having its size of 2**24."""
        ends = np.cumsum(sizes)
        assert ends[-1] == 2**24
        found = int(np.searchsorted(ends, self._quantile(), side="right"))
        self._take(int(ends[found] - sizes[found]), int(sizes[found]))
        return found

    def plain(self, bits: int) -> int:
        size = 2**24 >> bits
        found = self._quantile() // size
        self._take(found * size, size)
        return found


def _inner(codec: dict) -> list[int]:
    return codec["configuration"]["chunk_shape"]


def inner_chunk(shard: bytes, number: int, count: int) -> bytes | None:
    """Bytes of an inner chunk; None where none is stored."""
    index = shard[-(16 * int(count) + 4) :]
    assert crc32c(index[:-4]) == int.from_bytes(index[-4:], "little")
    offset, length = np.frombuffer(index, "<u8", 2, 16 * number).tolist()
    return None if offset == NOTHING else shard[offset : offset + length]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def neighbours(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the four nearest and of the four diagonal neighbours; zero beyond the edge."""
    p = np.pad(plane, 1)
    edges = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    return edges, p[:-2, :-2] + p[:-2, 2:] + p[2:, :-2] + p[2:, 2:]


def apply_guard(steps: np.ndarray, guard: np.ndarray) -> np.ndarray:
    """Prediction in units of `round_step`."""
    rounded = np.floor(steps + 0.515625).astype(np.int64)
    low = np.floor(steps).astype(np.int64)
    rounded = np.where(guard == 1, low, np.where(guard == 2, low + 1, rounded))
    apart = (guard.astype(np.int64) - 3 - rounded) % 253
    return np.where(guard > 2, rounded + np.where(apart > 126, apart - 253, apart), rounded)


def add_ordered(values: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Floats whose ordered bits are so many steps away."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    bits = values.view(unsigned)
    bits = np.where(bits & sign, ~bits, bits | sign) + rest.astype(unsigned)
    return np.where(bits & sign, bits ^ sign, ~bits).view(values.dtype)


def checksum(values: np.ndarray, extent: tuple[int, int]) -> int:
    """CRC-32 of a tile, zeros beyond the image."""
    inside = np.zeros_like(values)
    ny, nx = extent
    inside[:ny, :nx] = values[:ny, :nx]
    return zlib.crc32(inside.astype(values.dtype.newbyteorder("<")).tobytes())


def decode_sparse(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    flat = np.zeros(int(np.prod(shape)), np.uint8)
    place, at = -1, 0
    while at < len(data):
        number = shift = 0
        while True:
            number |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        gap, kind = divmod(number, 3)
        place += gap + 1
        flat[place] = kind + 1
        if kind == 2:
            flat[place] += data[at]
            at += 1
    return flat.reshape(shape)


def decode_blocks(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if data[0] == 0:
        return np.zeros(shape, dtype)
    if data[0] == 1:
        return unpack_numbers(data[1:], dtype).reshape(shape)
    length = int.from_bytes(data[1:3], "little")
    ny, nx = shape[0] // BLOCK, shape[1] // BLOCK
    bits = np.frombuffer(zlib.decompress(data[3 : 3 + length]), np.uint8)
    used = np.unpackbits(bits)[: ny * nx] == 1
    blocks = np.zeros((ny * nx, BLOCK, BLOCK), dtype)
    blocks[used] = unpack_numbers(data[3 + length :], dtype).reshape(-1, BLOCK, BLOCK)
    return blocks.reshape(ny, nx, BLOCK, BLOCK).transpose(0, 2, 1, 3).reshape(shape)


def unpack_numbers(data: bytes, dtype: np.dtype) -> np.ndarray:
    return np.asarray(standalone.simple_decompress(data)).astype(dtype)
