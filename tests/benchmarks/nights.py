"""What a night of a survey needs, from figures measured on one core: printed for docs/scaling.md.

``python -m tests.benchmarks.nights --encode 0.87`` takes the megapixels that a core encodes in a
second. Looking at images and measuring a sample of them are small beside it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

PUT, GET = 5e-6, 4e-7  # dollars a request: list prices of S3 standard; PUT and LIST cost alike
STORED = 0.023  # dollars a GB and month, the same list
CORE_HOUR = 0.04  # dollars; of general-purpose virtual machines on demand
WRITES, READS = 9, 3  # requests an image: PUT and LIST; GET and HEAD; removals are free
OBJECTS = 8  # an image
EXACT, SOURCES = 6.32, 0.182  # bits a pixel, of the demo


@dataclass(frozen=True)
class Night:
    """What a survey takes in a night, or a day.

    Attributes
    ----------
    name : str
    images : int
        Images of one detector.
    megapixels : float
        Of each.
    bits : int
        Of a raw pixel.
    """

    name: str
    images: int
    megapixels: float
    bits: int


NIGHTS = (
    Night("Rubin, a night of 20 TB: 613,000 images of CCDs", 613_000, 16.3, 16),
    Night("Euclid, a day: 20 fields, 4 dithers, 144 quadrants of VIS, 4 x 16 of NISP",
          16_640, 4.2, 16),
    Night("Roman, a day: 500 exposures of 18 arrays", 9_000, 16.8, 16),
)  # fmt: skip


def needs(night: Night, encode: float, hours: float) -> dict[str, float]:
    """Cores, terabytes, dollars and objects of a night.

    Parameters
    ----------
    encode : float
        Megapixels a second of a core.
    hours : float
        In which it has to be done.
    """
    pixels = night.images * night.megapixels
    seconds = pixels / encode
    stored = pixels * 1e6 * EXACT / 8 / 1e12
    return {
        "raw TB": pixels * 1e6 * night.bits / 8 / 1e12,
        "stored TB": stored,
        "of which sources GB": pixels * 1e6 * SOURCES / 8 / 1e9,
        "core hours": seconds / 3600,
        f"cores for {hours:g} h": seconds / 3600 / hours,
        "$ cores": seconds / 3600 * CORE_HOUR,
        "$ requests": night.images * (WRITES * PUT + READS * GET),
        "$ a month": stored * 1000 * STORED,
        "objects, millions": night.images * OBJECTS / 1e6,
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encode", type=float, required=True)
    parser.add_argument("--hours", type=float, default=10)
    given = parser.parse_args()
    rows = [needs(one, given.encode, given.hours) for one in NIGHTS]
    for number, night in enumerate(NIGHTS, 1):
        print(f"{number}: {night.name}")
    print("| | " + " | ".join(str(number) for number in range(1, len(rows) + 1)) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for name in rows[0]:
        print(f"| {name} | " + " | ".join(f"{row[name]:,.3g}" for row in rows) + " |")


if __name__ == "__main__":
    main()
