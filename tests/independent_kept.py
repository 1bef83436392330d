"""`skyfold.kept` decoded from docs/format.md alone, number by number."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
from independent_interlaced import Words, decode_interlaced, exact_model

TABLES = Path(__file__).parents[1] / "skyfold" / "codecs" / "leaf_styles.py"
TEXTS = [
    one.value for one in ast.walk(ast.parse(TABLES.read_text())) if isinstance(one, ast.Constant)
]
STYLES = [bytes.fromhex(one) for one in TEXTS[1:] if isinstance(one, str)]


def decode_kept(data: bytes, shape: tuple[int, int], decode_blocks) -> np.ndarray:
    if data[0] == 0:
        return decode_interlaced(data[1:], shape, decode_blocks)
    number, share, unit, depths, doubts = data[1:6]
    ends = [i for i in range(4) if depths >> i & 1]
    begins = [unit * t for i, t in enumerate((1, 2, 3, 5, 7, 10, 15, 30)) if doubts >> i & 1]
    at = 6 + 2 * (len(ends) + len(begins) + 2)
    tables = list(zip(data[6:at:2], data[7:at:2], strict=True))
    words = Words(data[at:])
    leaves = decode_leaves(words.coder, shape, share, STYLES[number % 128]) != (number >= 128)
    plane = np.zeros(shape, np.int64)

    def read(places: list[tuple[int, int]], contexts: list[int]) -> None:
        for context, (scale, form) in enumerate(tables):
            here = [place for place, one in zip(places, contexts, strict=True) if one == context]
            if here:
                found = words.residuals(len(here), scale, form)
                for (y, x), value in zip(here, found, strict=True):
                    plane[y, x] = value

    def doubt(y: int, x: int, steps: list[tuple[int, int]]) -> int:
        near = [(y + dy, x + dx) for dy, dx in steps]
        inside = [(y, x) for y, x in near if 0 <= y < shape[0] and 0 <= x < shape[1]]
        total = sum(min(abs(int(plane[place])), 32768) for place in inside)
        return len(ends) + 1 + sum(one <= total for one in begins)

    coded = [(int(y), int(x)) for y, x in np.argwhere(leaves)]
    upper_left = [(2 * y, 2 * x) for y, x in coded]
    read(upper_left, [sum(end < depth(leaves, y, x) for end in ends) for y, x in coded])
    lower_right = [(y + 1, x + 1) for y, x in upper_left]
    diagonal = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    read(lower_right, [doubt(*place, diagonal) for place in lower_right])
    rest = [(y, x + 1) for y, x in upper_left] + [(y + 1, x) for y, x in upper_left]
    read(rest, [doubt(*place, [(0, -1), (0, 1), (-1, 0), (1, 0)]) for place in rest])
    return plane


def depth(leaves: np.ndarray, y: int, x: int) -> int:
    for reach in range(1, 5):
        if not leaves[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].all():
            return reach - 1
    return 4


def decode_leaves(coder, shape: tuple[int, int], share: int, style: bytes) -> np.ndarray:
    chance = (share + 0.5) / 256
    squares = (shape[0] // 16, shape[1] // 16)
    model = exact_model([1 - chance, chance])
    holds = coder.decode(model, squares[0] * squares[1]).reshape(squares)
    for _ in range(3):
        holds = told_quarters(coder, holds, style)
    return holds == 1


def told_quarters(coder, holds: np.ndarray, style: bytes) -> np.ndarray:
    steps = {"": (0, 0), "N": (-1, 0), "S": (1, 0), "E": (0, 1), "W": (0, -1)}
    steps |= {"NE": (-1, 1), "NW": (-1, -1), "SE": (1, 1), "SW": (1, -1)}
    known = {"U": holds, **{one: np.zeros_like(holds) for one in "ADBC"}}

    def at(name: str, y: int, x: int) -> int:
        dy, dx = steps[name[2:]]
        inside = 0 <= y + dy < holds.shape[0] and 0 <= x + dx < holds.shape[1]
        return int(known[name[0]][y + dy, x + dx]) if inside else 0

    far = "A_N A_NE A_S A_SE D_W D_E D_NW D_NE"
    sums = {
        "A": (0, {1: "U_N", 2: "U_W", 4: "U_NW", 8: "U_S", 16: "U_E", 32: "U_NE U_SW"}),
        "D": (96, {1: "A", 2: "A_E", 4: "A_S", 8: "A_SE", 16: "U_N U_W", 48: "U_E", 96: "U_S"}),
        "B": (288, {1: "A", 2: "A_E", 4: "D", 8: "D_N", 16: far}),
        "C": (432, {1: "A", 2: "A_S", 4: "D", 8: "D_W", 16: "B B_W B_S B_SW"}),
    }
    for quarter, (first, weights) in sums.items():
        for y, x in np.argwhere(holds == 1):
            if quarter == "C" and not any(at(one, y, x) for one in "ADB"):
                known["C"][y, x] = 1
                continue
            entry = first
            for weight, names in weights.items():
                entry += weight * sum(at(name, y, x) for name in names.split())
            chance = (style[entry] + 0.5) / 256
            known[quarter][y, x] = coder.decode(exact_model([1 - chance, chance]), 1)[0]
    quarters = np.zeros((2 * holds.shape[0], 2 * holds.shape[1]), int)
    for name, y, x in (("A", 0, 0), ("B", 0, 1), ("C", 1, 0), ("D", 1, 1)):
        quarters[y::2, x::2] = known[name]
    return quarters
