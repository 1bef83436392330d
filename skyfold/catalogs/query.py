"""Conditions on a catalog's columns: what may be asked, and where it can be ruled out unread.

A condition is a tree of comparisons. Each can say where it holds for values, and where it may hold
for anything between two values: the lowest and highest of a chunk of rows, or a coarse value less
and more its bound. So the same condition leaves chunks unread, and rows undecoded.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError

Bools = NDArray[np.bool_]
Value = float | int | bytes

_KEPT = {*keyword.kwlist} - {"and", "or", "not", "in", "True", "False", "None"}
_WORDS = re.compile(r"""'[^']*'|"[^"]*"|\w+""")  # quoted text, or words
_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_DENIED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(frozen=True)
class Comparison:
    """A column compared with a number, or with text.

    Attributes
    ----------
    column : str
    sign : {"<", "<=", ">", ">=", "==", "!="}
    value : float, int or bytes
        Text as UTF-8.
    """

    column: str
    sign: str
    value: Value

    def comparisons(self) -> Iterator[Comparison]:
        """Every comparison of the condition."""
        yield self

    def holds(self, values: Mapping[str, NDArray[Any]], known: Mapping[str, Bools]) -> Bools:
        """Where it holds: by column, values and where there is one. A missing value meets nothing.

        Parameters
        ----------
        values, known : mapping of ndarray, shape (n,)
        """
        met = _OPERATORS[self.sign](values[self.column], self.value)
        return np.asarray(met, bool) & known[self.column]

    def possible(self, ranges: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Bools | bool:
        """Where it may hold for a value from lowest to highest; NaN holds nothing.

        Parameters
        ----------
        ranges : mapping of pairs of ndarray, shape (n,)
            Columns that are not named may have any value.
        """
        if self.column not in ranges:
            return True
        low, high = ranges[self.column]
        if self.sign == "==":
            return np.asarray((low <= self.value) & (self.value <= high))
        if self.sign == "!=":
            return np.asarray((low < self.value) | (high > self.value))
        return np.asarray(_OPERATORS[self.sign](low if self.sign[0] == "<" else high, self.value))

    def denied(self) -> Condition:
        """What holds where this does not, and there is a value."""
        return Comparison(self.column, _DENIED[self.sign], self.value)


@dataclass(frozen=True)
class Joined:
    """Conditions of which all hold, or at least one.

    Attributes
    ----------
    parts : tuple of Comparison or Joined
    every : bool
        Whether all must hold.
    """

    parts: tuple[Condition, ...]
    every: bool

    def comparisons(self) -> Iterator[Comparison]:
        """Every comparison of the condition."""
        for part in self.parts:
            yield from part.comparisons()

    def holds(self, values: Mapping[str, NDArray[Any]], known: Mapping[str, Bools]) -> Bools:
        """Where it holds; see `Comparison.holds`."""
        return self._joined([part.holds(values, known) for part in self.parts])

    def possible(self, ranges: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Bools | bool:
        """Where it may hold; see `Comparison.possible`."""
        return self._joined([part.possible(ranges) for part in self.parts])

    def _joined(self, found: list[Any]) -> Any:
        join = np.logical_and if self.every else np.logical_or
        out = found[0]
        for one in found[1:]:
            out = join(out, one)
        return out

    def denied(self) -> Condition:
        """What holds where this does not (De Morgan), and there are values."""
        return Joined(tuple(part.denied() for part in self.parts), not self.every)


Condition = Comparison | Joined


def parse_condition(text: str) -> Condition:
    """Condition of its text.

    Parameters
    ----------
    text : str
        Comparisons of columns with numbers or text, joined by ``and``, ``or``, ``not`` and
        parentheses; ``in`` a list; ``between`` as a chain. Columns whose names are no Python names
        stand in backticks.

    Raises
    ------
    InvalidRequestError
        If it is anything else.

    Examples
    --------
    >>> parse_condition("z > 2")
    Comparison(column='z', sign='>', value=2)
    >>> found = parse_condition("(1 < z <= 2 or mag_r < 20) and field in ('a', 'b')")
    >>> sorted({one.column for one in found.comparisons()})
    ['field', 'mag_r', 'z']
    """
    plain, names = _without_backticks(text.strip())
    try:
        return _Reader(text, names).condition(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise _refusal(text) from error


def _without_backticks(text: str) -> tuple[str, dict[str, str]]:
    """Text whose names in backticks, or that Python keeps, are replaced; and which those are."""
    pieces = text.split("`")
    names = {f"_quoted{place}_": name for place, name in enumerate(pieces[1::2])}
    for place, quoted in enumerate(list(names)):
        pieces[2 * place + 1] = quoted

    def plain(found: re.Match[str]) -> str:
        word = found.group()
        if word not in _KEPT:
            return word
        names[f"_kept_{word}_"] = word
        return f"_kept_{word}_"

    return _WORDS.sub(plain, "".join(pieces)), names


@dataclass(frozen=True)
class _Reader:
    """Turns Python's syntax into conditions."""

    text: str
    names: dict[str, str]

    def condition(self, node: ast.expr) -> Condition:
        if isinstance(node, ast.BoolOp):
            parts = tuple(self.condition(part) for part in node.values)
            return Joined(parts, isinstance(node.op, ast.And))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self.condition(node.operand).denied()
        if not isinstance(node, ast.Compare):
            raise _refusal(self.text)
        sides = [node.left, *node.comparators]
        found = [
            self._comparison(left, op, right)
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return found[0] if len(found) == 1 else Joined(tuple(found), every=True)

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Condition:
        if isinstance(op, ast.In | ast.NotIn):  # codespell:ignore
            return self._one_of(left, right, denied=not isinstance(op, ast.In))
        sign = _SIGNS.get(type(op))
        if sign is not None and isinstance(left, ast.Name):
            return self._made(left, sign, right)
        if sign is not None and isinstance(right, ast.Name):
            return self._made(right, _TURNED[sign], left)
        raise _refusal(self.text)

    def _one_of(self, left: ast.expr, right: ast.expr, *, denied: bool) -> Condition:
        listed = isinstance(right, ast.Tuple | ast.List | ast.Set) and right.elts
        if not listed or not isinstance(left, ast.Name):
            raise _refusal(self.text)
        found = Joined(tuple(self._made(left, "==", one) for one in listed), every=False)
        return found.denied() if denied else found

    def _made(self, name: ast.Name, sign: str, node: ast.expr) -> Comparison:
        value = ast.literal_eval(node)
        if isinstance(value, str) and sign in ("==", "!="):
            value = value.encode()
        if isinstance(value, str) or not isinstance(value, int | float | bytes):
            raise _refusal(self.text)
        return Comparison(self.names.get(name.id, name.id), sign, value)


def _refusal(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"condition {text!r} cannot be understood; allowed are comparisons (< <= > >= == != in) of "
        "a column with numbers, or of text with == != in, joined by `and`, `or`, `not` and "
        "parentheses; read the columns and select in Python for more"
    )
