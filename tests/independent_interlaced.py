"""`skyfold.interlaced` decoded from docs/format.md alone, pixel arithmetic written out plainly."""

from __future__ import annotations

import struct
from functools import cache

import constriction
import numpy as np
from pcodec import standalone

NEAR = [((-1, -1), (-1, 1)), ((0, -1), (-1, 0)), ((0, -1), (-1, 0))]
KNIGHTS = [(-1, -2), (-1, 2), (-2, -1), (-2, 1)]
FAR = [
    [(-3, -3), (-3, 3), (-1, -3), (-1, 3), (-3, -1), (-3, 1)],
    [*KNIGHTS, (0, -3), (-3, 0)],
    [*KNIGHTS, (-1, -1), (-1, 1)],
]
FIRST = [(1, 1), (0, 1), (1, 0)]
QUARTERS = (
    (217, 216, 13, 216, 13, 13, 6, 216, 13, 13, 6, 13, 6, 6, 57),
    (169, 169, 371, 81, 13, 7, 12, 81, 7, 13, 12, 11, 4, 4, 70),
    (81, 81, 11, 169, 13, 7, 4, 169, 7, 13, 4, 371, 12, 12, 70),
    (100, 100, 147, 100, 35, 12, 16, 100, 12, 35, 16, 147, 16, 16, 172),
    (169, 81, 13, 169, 371, 7, 12, 81, 7, 11, 4, 13, 12, 4, 70),
    (387, 11, 174, 11, 174, 3, 143, 8, 3, 3, 4, 3, 4, 2, 94),
    (11, 8, 3, 387, 174, 3, 4, 11, 3, 3, 2, 174, 143, 4, 94),
    (53, 9, 29, 53, 225, 4, 60, 9, 4, 4, 5, 29, 60, 5, 475),
    (81, 169, 13, 81, 11, 7, 4, 169, 7, 371, 12, 13, 4, 12, 70),
    (11, 387, 174, 8, 3, 3, 4, 11, 3, 174, 143, 3, 2, 4, 94),
    (8, 11, 3, 11, 3, 3, 2, 387, 3, 174, 4, 174, 4, 143, 94),
    (9, 53, 29, 9, 4, 4, 5, 53, 4, 225, 60, 29, 5, 60, 475),
    (100, 100, 35, 100, 147, 12, 16, 100, 12, 147, 16, 35, 16, 16, 172),
    (53, 53, 225, 9, 29, 4, 60, 9, 4, 29, 60, 4, 5, 5, 475),
    (9, 9, 4, 53, 29, 4, 5, 53, 4, 29, 5, 225, 60, 60, 475),
    (8, 8, 13, 8, 13, 6, 15, 8, 6, 13, 15, 13, 15, 15, 868),
)


def weights_of(scale: int, shape: int, left_off: int) -> list[float]:
    t = (8 + scale % 8) * 2.0 ** (scale // 8) / 64
    t = t / 2.0**left_off
    spans = [(q, 1) for q in range(-32, 33)]
    spans += [(32 + 2**n, 2**n) for n in range(20)]
    spans += [(-32 - 2 ** (n + 1) + 1, 2**n) for n in range(20)]
    weights = []
    for least, width in spans:
        weight = 0.0
        for point in range(8):
            x = least - 0.5 / 2.0**left_off + width * ((2 * point + 1) / 16)
            density = 1 / (1 + x * x / (2 * 2**shape * (t * t)))
            for _ in range(shape):
                density = density * density
            weight = weight + density
        weights.append(weight * width)
    return weights


def counts_of(weights: list[float], share: int) -> list[float]:
    total = 0.0
    for weight in weights:
        total = total + weight
    return [float(np.floor(weight / total * share)) for weight in weights]


@cache
def table(scale: int, shape: int, *other: int):
    whole = 2**24 - 105
    left_off = max(0, min(scale, *other[:1] or [scale]) // 8 - 5)
    weights = weights_of(scale, shape, left_off)
    if other:
        rest = (2 * other[2] + 1) * whole // 512
        below = counts_of(weights[:32] + weights[85:], whole - rest)
        above = counts_of(weights_of(other[0], other[1], left_off)[32:85], rest)
        counts = below[:32] + above + below[32:]
    else:
        counts = counts_of(weights, whole)
    counts[32] += whole - sum(counts)
    return left_off, constriction.stream.model.Categorical(np.array(counts), perfect=False)


class Words:
    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        self.coder = constriction.stream.queue.RangeDecoder(words)

    def uniform(self, bits: int, count: int) -> np.ndarray:
        model = constriction.stream.model.Uniform(1 << bits)
        return self.coder.decode(model, count).astype(np.int64)

    def residuals(self, count: int, *numbers: int) -> np.ndarray:
        left_off, model = table(*numbers)
        symbols = self.coder.decode(model, count).astype(np.int64)
        found = symbols - 32
        bits = np.where(symbols > 64, (symbols - 65) % 20 + 1, 0)
        for length in range(1, 21):
            here = bits == length
            if here.any():
                low = self.uniform(length - 1, int(here.sum())) if length > 1 else 0
                size = 32 + 2 ** (length - 1) + low
                found[here] = np.where(symbols[here] < 85, size, -size)
        if left_off:
            found = found * 2**left_off + self.uniform(left_off, count)
        return found


def decode_interlaced(data: bytes, shape: tuple[int, int], decode_blocks) -> np.ndarray:
    form, data = data[0], data[1:]
    if form == 0:
        return decode_blocks(data)
    coded = np.ones(shape, bool)
    if form > 1:
        length = int.from_bytes(data[2:4], "little")
        leaves = decode_mask(data[1], data[4 : 4 + length], shape)
        coded = np.kron(leaves != data[0], np.ones((2, 2))) == 1
        data = data[4 + length :]
    if form == 3:
        plane = np.zeros(shape, np.int64)
        plane[coded] = np.asarray(standalone.simple_decompress(data))
        return plane
    return Plane(data, coded).decode()


def decode_skewed(data: bytes, shape: tuple[int, int], decode_blocks) -> np.ndarray:
    if data[0] == 0:
        return decode_interlaced(data[1:], shape, decode_blocks)
    coded = np.ones(shape, bool)
    if data[0] == 2:
        length = int.from_bytes(data[3:5], "little")
        leaves = decode_mask(data[2], data[5 : 5 + length], shape)
        coded = np.kron(leaves != data[1], np.ones((2, 2))) == 1
        data = data[4 + length :]
    return Plane(data[1:], coded, sided=True).decode()


def decode_tagged(data: bytes, shape: tuple[int, int], decode_blocks) -> np.ndarray:
    if data[0] == 0:
        return decode_interlaced(data[1:], shape, decode_blocks)
    length = int.from_bytes(data[3:5], "little")
    leaves = decode_mask(data[2], data[5 : 5 + length], shape)
    odd = np.kron(leaves != data[1], np.ones((2, 2))) == 1
    data = data[5 + length :]
    size = 4 + int.from_bytes(data[:4], "little")
    plane = np.where(odd, 1, 0)
    for part, used in ((data[4:size], odd), (data[size:], ~odd)):
        if not part:
            continue
        kind, rest = part[0], part[1:]
        if kind == 4:
            size = int.from_bytes(rest[2:4], "little")
            blank = np.kron(decode_mask(rest[1], rest[4 : 4 + size], shape), np.ones((2, 2)))
            used = used & (blank == rest[0])
            kind, rest = rest[4 + size], rest[5 + size :]
        if kind == 5:
            plane += 2 * decode_interlaced(rest, shape, decode_blocks)
        elif kind == 3:
            plane[used] += 2 * np.asarray(standalone.simple_decompress(rest)).astype(np.int64)
        else:
            plane += 2 * Plane(rest, used).decode()
    return plane


def exact_model(probabilities: list[float]):
    counts = np.array(probabilities) * 2**24 - 1
    return constriction.stream.model.Categorical(counts, perfect=False)


def decode_mask(share: int, data: bytes, shape: tuple[int, int]) -> np.ndarray:
    coder = Words(data).coder
    chance = (share + 0.5) / 256
    squares = (shape[0] // 16, shape[1] // 16)
    count = squares[0] * squares[1]
    holds = coder.decode(exact_model([1 - chance, chance]), count).reshape(squares)
    for _ in range(3):
        edge = np.pad(holds, 1)
        row = edge[:-2, 1:-1] + 2 * edge[2:, 1:-1] + 4 * edge[1:-1, :-2] + 8 * edge[1:-1, 2:]
        quarters = np.zeros((2 * holds.shape[0], 2 * holds.shape[1]), int)
        for number, chances in enumerate(QUARTERS):
            y, x = np.nonzero((row == number) & (holds == 1))
            if not len(y):
                continue
            symbols = coder.decode(exact_model([one / 1024 for one in chances]), len(y)) + 1
            for bit, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                quarters[2 * y + dy, 2 * x + dx] = symbols >> bit & 1
        holds = quarters
    return holds


class Plane:
    def __init__(self, data: bytes, coded: np.ndarray, *, sided: bool = False) -> None:
        self.coded = coded
        self.offset, contexts = struct.unpack_from("<iB", data)
        at = 5
        self.thresholds = np.frombuffer(data, "<u2", contexts - 1, at)
        at += 2 * (contexts - 1)
        self.tables = [tuple(data[at + 2 * n : at + 2 * n + 2]) for n in range(contexts + 1)]
        at += 2 * contexts + 2
        self.records = []
        for _ in range(6):
            *context, steep = struct.unpack_from("<H3BH", data, at)
            at += 7
            weights = []
            for _ in range(2 if steep else 1):
                weights.append(struct.unpack_from("<B7b", data, at))
                at += 8
            self.records.append((context, steep, weights))
        for n in range((contexts + 1) * sided):
            if any(data[at + 3 * n : at + 3 * n + 3]):
                self.tables[n] += tuple(data[at + 3 * n : at + 3 * n + 3])
        self.words = Words(data[at + 3 * (contexts + 1) * sided :])
        self.values = np.zeros(coded.shape, np.int64)
        self.sizes = np.zeros(coded.shape, np.int64)

    def decode(self) -> np.ndarray:
        first = np.full(self.values[::16, ::16].shape, len(self.tables) - 1)
        values = self.read(first, self.coded[::16, ::16])
        self.values[::16, ::16], self.sizes[::16, ::16] = values, np.abs(values)
        for d in (8, 4, 2, 1):
            for number in range(3):
                self.one_pass(d, number)
        return np.where(self.coded, self.values + self.offset, 0)

    def one_pass(self, d: int, number: int) -> None:
        values, sizes = self.values[::d, ::d], np.minimum(self.sizes[::d, ::d], 32768)
        y, x = np.meshgrid(
            np.arange(FIRST[number][0], values.shape[0], 2),
            np.arange(FIRST[number][1], values.shape[1], 2),
            indexing="ij",
        )
        (c0, c1, c2, c3), steep, weights = self.records[number + (3 if d > 1 else 0)]
        one, other = NEAR[number]
        pairs = [pair(values, y, x, step) for step in (one, other)]
        near = sum(a + b for a, b in pairs)
        apart = np.minimum(sum(np.abs(a - b) for a, b in pairs), 32768)
        across = sum(pairs[0]) - sum(pairs[1])
        far = [sum(pair(values, y, x, step)) for step in FAR[number]]
        close = sum(sum(pair(sizes, y, x, step)) for step in NEAR[number])
        distant = sum(sum(pair(sizes, y, x, step)) for step in FAR[number][4:])
        doubt = np.minimum((c0 + c1 * close + c2 * apart + c3 * distant) // 16, 65535)
        predicted = [
            (
                w[0] * near
                + w[1] * across
                + sum(w[j + 2] * (2 * far[j] - near) for j in range(6))
                + 256
            )
            // 512
            for w in weights
        ]
        prediction = (
            predicted[0] if not steep else np.where(apart >= steep, predicted[1], predicted[0])
        )
        context = (self.thresholds[:, None, None] <= doubt).sum(axis=0)
        coded = self.coded[::d, ::d][y, x]
        residual = self.read(context, coded)
        values[y, x] = np.where(coded, prediction + residual, 0)
        self.sizes[::d, ::d][y, x] = np.abs(residual)

    def read(self, context: np.ndarray, coded: np.ndarray) -> np.ndarray:
        out = np.zeros(context.shape, np.int64)
        for number, numbers in enumerate(self.tables):
            here = coded & (context == number)
            if here.any():
                out[here] = self.words.residuals(int(here.sum()), *numbers)
        return out


def pair(plane: np.ndarray, y: np.ndarray, x: np.ndarray, step: tuple[int, int]):
    def at(dy: int, dx: int) -> np.ndarray:
        return plane[mirror(y + dy, plane.shape[0]), mirror(x + dx, plane.shape[1])]

    return at(*step), at(-step[0], -step[1])


def mirror(index: np.ndarray, size: int) -> np.ndarray:
    index = np.abs(index)
    return np.where(index >= size, 2 * (size - 1) - index, index)
