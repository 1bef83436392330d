"""What a need says: how much loss of which measure, on objects of which signal-to-noise ratio.

This module knows how needs read as text, how their units convert to those of the record, and
which bins of the record a need is about. A need bounds a loss from above::

    0.1 sigma at S/N 10                    the case's default measure, the bin that holds S/N 10
    0.2 sigma                              every bin from S/N 5, or from the lowest above it
    |flux_2fwhm| < 0.1 sigma at S/N 10-20  a named measure, every bin that this range touches
    0.3 sigma at S/N >= 5                  the cumulative bin, and those in it
    5 mas at S/N 20                        the case's first measure with such a unit
    |m| < 1e-3                             a pure number: multiplicative bias of the shear
    1% completeness at S/N 5               at most 1 % of the sources lost
    completeness >= 99% at S/N 5           the same
    sigma_NMAD +1%                         at most 1 % more scatter of photometric redshifts

``completeness`` is what ``lost`` leaves and ``purity`` what ``created`` leaves: values up to 50 %
are read as the loss, larger ones as what must remain. ``sigma_NMAD`` and ``outliers`` are other
names of what photometric redshifts change. Capital letters do not matter, and σ is sigma.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from astropy import units as u

from skyfold.errors import InvalidNeedError
from skyfold.science.bins import is_cumulative, limits

EXAMPLES = "'0.1 sigma at S/N 10', '1% completeness at S/N 5', '|flux_2fwhm| < 0.2 sigma'"
DEFAULT_SN = 5.0  # from here a need without S/N is about every bin

_NUMBER = r"(?:[-+]\s*)?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOUND = re.compile(
    rf"(?:\|?\s*(?P<measure>[A-Za-z_]\w*)\s*\|?\s*)?(?P<sign><=|>=|[<>≤≥])?\s*"
    rf"(?P<value>{_NUMBER})\s*(?P<unit>%|[^\W\d]\S*)?(?:\s+(?P<word>\w+))?"
)
_WHERE = re.compile(
    rf"(?:S/N|SNR?)\s*(?P<sign>>=|[>≥=])?\s*(?P<low>{_NUMBER})(?:\s*-\s*(?P<high>{_NUMBER}))?",
    re.IGNORECASE,
)
_REMAINING = {"completeness": "lost", "purity": "created"}
_LOST = {"incompleteness": "lost", "contamination": "created", "lost": "lost", "created": "created"}
_RATES = _REMAINING | _LOST
_NAMES = _RATES | {"sigma_nmad": "nmad_change", "outliers": "outlier_moved"}
_SIGMA = ("sigma", "σ")
_PERCENT = ("%", "percent")


@dataclass(frozen=True)
class Need:
    """An upper bound on a loss.

    Attributes
    ----------
    value : float
        The most that the upper end of the recorded interval may be, in `unit`.
    unit : str
        ``"sigma"``, ``"fraction"``, a unit of astropy, or empty for a pure number.
    sn : float or (float, float) or None
        One signal-to-noise ratio, a range (upper end may be infinite), or every bin from 5.
    measure : str or None
        None: the default measure of the science case.

    Raises
    ------
    InvalidNeedError
        If the value is negative or not finite, or the S/N is not a range of positive numbers.

    Examples
    --------
    >>> Need(0.1, "sigma", sn=10.0) == parse_need("0.1 sigma at S/N 10")
    True
    """

    value: float
    unit: str
    sn: float | tuple[float, float] | None = None
    measure: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.value < math.inf:
            raise _invalid(str(self), "a loss is bounded by a finite number of at least 0")
        low, high = (self.sn, math.inf) if isinstance(self.sn, int | float) else self.sn or (0, 1)
        if not 0 <= low < high or math.isinf(low):
            raise _invalid(str(self), "S/N is one number, or a range from low to high")

    def __str__(self) -> str:
        bound = f"{self.value:g} {self.unit}".strip()
        text = bound if self.measure is None else f"|{self.measure}| <= {bound}"
        if self.sn is None:
            return text
        if not isinstance(self.sn, tuple):
            return f"{text} at S/N {self.sn:g}"
        low, high = self.sn
        return f"{text} at S/N " + (f">= {low:g}" if math.isinf(high) else f"{low:g}-{high:g}")


def parse_need(text: str) -> Need:
    """Return the need that a text states; the module's docstring shows the forms.

    Raises
    ------
    InvalidNeedError
        If the text is of no known form; the message shows some.
    """
    bound, *where = re.split(r"\s+(?:at|for)\s+", text.strip(), maxsplit=1)
    match = _BOUND.fullmatch(bound.strip())
    if match is None:
        raise _invalid(text, "a need reads: [measure <=] number unit [measure] [at S/N number]")
    unit, word = match["unit"] or "", match["word"]
    if word is None and unit.lower() in _RATES:
        unit, word = "", unit
    if unit.lower() in _SIGMA:
        unit = "sigma"
    if word and match["measure"]:
        raise _invalid(text, f"it names two measures, {match['measure']!r} and {word!r}")
    value = _real(match["value"])
    if unit in _PERCENT:
        value, unit = value / 100, "fraction"
    given = match["measure"] or word
    name = (given or "").lower()
    if name in _RATES:
        value, unit = _as_loss(text, name, match["sign"], value), unit or "fraction"
    elif match["sign"] in (">", ">=", "≥"):
        raise _invalid(text, "a need bounds a loss from above: write < or <=")
    return Need(value, unit, _signal_to_noise(text, where), _NAMES.get(name, given))


def parse_needs(needs: str | Need | Iterable[str | Need]) -> list[Need]:
    """Return one or several needs, each text or typed, as a list that is not empty.

    Raises
    ------
    InvalidNeedError
        If one cannot be understood, or there is none.
    """
    several = list(needs) if isinstance(needs, Iterable) and not isinstance(needs, str) else [needs]
    for one in several:
        if not isinstance(one, str | Need):
            raise _invalid(str(one), f"it is a {type(one).__name__}, and a need is text or a Need")
    if not several:
        raise _invalid("", "it is empty: at least one need is needed to choose a level")
    return [parse_need(need) if isinstance(need, str) else need for need in several]


def value_in(need: Need, unit: str, subject: str) -> float:
    """Return the need's value in the unit of the record.

    Parameters
    ----------
    need : Need
    unit : str
        The unit in which the losses of `subject` are recorded.
    subject : str
        Case and measure, for the message.

    Raises
    ------
    InvalidNeedError
        If the unit does not convert.
    """
    if need.unit == unit or {need.unit, unit} == {"", "fraction"}:
        return need.value
    try:
        return float(u.Unit(need.unit).to(u.Unit(unit), need.value))
    except (ValueError, u.UnitConversionError) as wrong:
        example = f"{need.value:g} {unit}".strip()
        raise InvalidNeedError(
            f"need {str(need)!r}: its unit is {need.unit or 'missing'}, but losses of {subject} "
            f"are recorded in {unit or 'pure numbers'}; state it so, for example {example!r}"
        ) from wrong


def converts(need: Need, unit: str) -> bool:
    """Tell whether a need is stated in the unit of a record, or one that converts to it."""
    if need.unit == unit or {need.unit, unit} == {"", "fraction"}:
        return True
    try:
        return bool(u.Unit(need.unit).is_equivalent(u.Unit(unit))) and bool(need.unit)
    except ValueError:
        return False


def matching_bins(need: Need, recorded: Sequence[str], subject: str) -> tuple[list[str], list[str]]:
    """Return the bins that a need is about.

    Parameters
    ----------
    need : Need
    recorded : sequence of str
        Names of the bins that there are.
    subject : str
        What an error message is to call it.

    Returns
    -------
    required, checked : list of str
        Every required bin must hold enough objects and meet the need. Those that are only
        checked must meet it where they hold enough: few surveys fill the bin of the brightest
        objects, and a cumulative bin among the required ones vouches for them.

    Raises
    ------
    InvalidNeedError
        If none of the recorded bins is about this S/N.
    """
    spans = {name: span for name in recorded if (span := limits(name)) is not None}
    if need.sn is None and not spans:
        return list(recorded), []
    single = {name: span for name, span in spans.items() if not is_cumulative(name)}
    if isinstance(need.sn, int | float):
        required = [name for name, (low, high) in single.items() if low <= need.sn < high]
        checked: list[str] = []
    else:
        lowest = min((low for low, _ in spans.values()), default=math.inf)
        start, end = need.sn or (max(DEFAULT_SN, lowest), math.inf)
        within = [name for name, (low, high) in single.items() if low < end and high > start]
        whole = [name for name in spans if is_cumulative(name) and spans[name] == (start, end)]
        required, checked = (whole, within) if whole else (within, [])
        if start < lowest:
            required = []
    if not required:
        raise InvalidNeedError(
            f"need {str(need)!r}: no bin of {subject} holds this S/N; recorded are "
            f"{', '.join(recorded) or 'none'}; ask within them, for example {EXAMPLES}"
        )
    return required, checked


def _as_loss(text: str, name: str, sign: str | None, value: float) -> float:
    """Turn a rate, lost or remaining, into the rate lost."""
    remains = name in _REMAINING and value > 0.5
    if sign and (sign in (">", ">=", "≥")) != remains:
        raise _invalid(text, f"{name} is bounded on the wrong side: less must be lost, more remain")
    if value > 1:
        raise _invalid(text, "a rate is at most 1, or 100%")
    return round(1 - value, 12) if remains else value


def _signal_to_noise(text: str, where: list[str]) -> float | tuple[float, float] | None:
    """Read what stands after "at"."""
    if not where:
        return None
    match = _WHERE.fullmatch(where[0].strip())
    is_open = match is not None and (match["sign"] or "=") != "="
    if match is None or (is_open and match["high"]):
        raise _invalid(text, "after 'at' stands S/N 10, S/N 10-20 or S/N >= 5")
    low = _real(match["low"])
    if is_open:
        return low, math.inf
    return (low, _real(match["high"])) if match["high"] else low


def _real(text: str) -> float:
    """The number that a text states, with blanks after its sign."""
    return float("".join(text.split()))


def _invalid(text: str, allowed: str) -> InvalidNeedError:
    """Build the error of a need that cannot be understood."""
    return InvalidNeedError(
        f"need {text!r} cannot be understood: {allowed}; write for example {EXAMPLES}"
    )
