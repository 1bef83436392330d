"""A release in numbers: what it holds, and what each level of it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skyfold.ladder import LEVELS

if TYPE_CHECKING:
    from skyfold.release import DataRelease


def release_info(release: DataRelease) -> dict[str, Any]:
    """What `DataRelease.info` gives."""
    return {
        "name": release.name,
        "url": release.url,
        "sealed": release.sealed,
        "format": release.about["format"],
        "images": {name: _image_set_info(release, name) for name in release.images.sets},
        "catalogs": {name: one.info() for name, one in release.catalogs.items()},
        "densities": {name: one.info() for name, one in release.densities.items()},
        "objects": release.objects.info() if len(release.objects) else {},
        "set_aside": release.about.get("set_aside", []),
        "quarantined": release.about.get("quarantined", []),
    }


def _image_set_info(release: DataRelease, name: str) -> dict[str, Any]:
    entries = [entry for entry in release.images.entries.values() if entry.set == name]
    pixels = sum(entry.pixels for entry in entries)
    stored = {level: sum(entry.bytes_at(level) for entry in entries) for level in LEVELS}
    return {
        "count": len(entries),
        "pixels": pixels,
        "bands": sorted({entry.band for entry in entries}),
        "bound": max((entry.bound for entry in entries), default=0.0),
        "stored": sum(sum(entry.bytes.values()) for entry in entries),
        "levels": {
            level: {"bytes": size, "bpp": 8 * size / max(pixels, 1)}
            for level, size in stored.items()
        },
    }
