"""Conditions on a catalog's columns: what may be asked, and which chunks can be left unread."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError

_OPERATORS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}
_BY_SIGN = dict(_OPERATORS.values())


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a number.

    Attributes
    ----------
    column : str
    sign : {"<", "<=", ">", ">=", "=="}
    number : float or int
    """

    column: str
    sign: str
    number: float

    def holds(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where values meet it; NaN does not."""
        return np.asarray(_BY_SIGN[self.sign](values, self.number), bool)

    def possible(self, least: NDArray[Any], most: NDArray[Any]) -> NDArray[np.bool_]:
        """Where a chunk whose values lie between these may hold one that meets it."""
        if self.sign == "==":
            return np.asarray((least <= self.number) & (self.number <= most))
        return self.holds(least if self.sign[0] == "<" else most)


def parse_condition(text: str) -> list[Condition]:
    """Comparisons that must all hold.

    Parameters
    ----------
    text : str
        Such as ``"mag_r < 24 and 0.1 < redshift <= 0.3"``.

    Raises
    ------
    InvalidRequestError
        If it is anything else.

    Examples
    --------
    >>> parse_condition("1 < z <= 2")
    [Condition(column='z', sign='>', number=1), Condition(column='z', sign='<=', number=2)]
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refusal(text) from error
    joined = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
    parts = tree.values if joined else [tree]  # type: ignore[attr-defined]
    return [term for part in parts for term in _comparisons(part, text)]


def _comparisons(node: ast.expr, text: str) -> list[Condition]:
    if not isinstance(node, ast.Compare) or any(type(op) not in _OPERATORS for op in node.ops):
        raise _refusal(text)
    sides = [node.left, *node.comparators]
    found = []
    for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
        sign = _OPERATORS[type(op)][0]
        if isinstance(left, ast.Name):
            found.append(Condition(left.id, sign, _number(right, text)))
        elif isinstance(right, ast.Name):
            found.append(Condition(right.id, _TURNED[sign], _number(left, text)))
        else:
            raise _refusal(text)
    return found


def _number(node: ast.expr, text: str) -> float:
    try:
        value = ast.literal_eval(node)
    except ValueError as error:
        raise _refusal(text) from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(text)
    return value


def _refusal(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"condition {text!r} cannot be understood; allowed are comparisons (< <= > >= ==) of a "
        "column "
        "with a number, joined by `and`; read the columns and select in Python for more"
    )
