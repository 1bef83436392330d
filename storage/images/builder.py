"""Writing a release: plan, layers of one image at a time, index, manifest.

Every step can be repeated. What is written is named by what it was made of, so that an image whose
shards are there, from the same input, model and step, is skipped; a shard has one writer; the
manifest comes last and only if it does not exist. State that is not part of the release lies under
`_staging/` and is removed when the release is sealed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr

from skyfold import layout, sky
from skyfold.access.store import Store
from skyfold.access.trust import reading
from skyfold.errors import ReleaseError, SealedReleaseError
from skyfold.images.details import SHARDED, decode_header, details_key, encode_places, shard_index
from skyfold.images.index import ImageEntry, index_key, shard_key, write_index
from skyfold.images.network import model_digest
from skyfold.ladder import TILE
from skyfold.layout import LAYERS, ImageGroup, layers_read
from storage.sealing import PARTIAL, STAGING, seal_release

__all__ = [
    "STAGING",
    "ReleaseBuilder",
    "describe_image",
    "entry_from_note",
    "note_of",
    "plan_groups",
]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skyfold.release import DataRelease
    from storage.images.encoder import EncodedImage
    from storage.survey import SurveyImage

_T = TypeVar("_T")
DIRECT_GAIN = 0.98  # the raw array is stored by itself where that is smaller than this times
SAMPLED_TILES = (2, 8)  # of an image, that tell how many bytes it would take by itself
CLEARLY = 1.05
_BINARY = ("fills", "places")
WRITER = 5  # changes when the same image would be written as other bytes


class ReleaseBuilder:
    """A release being written.

    Parameters
    ----------
    store : Store
        Where the release is or will be.

    Raises
    ------
    SealedReleaseError
        On the first change, if the release is sealed.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def is_sealed(self) -> bool:
        """Whether there is a manifest."""
        return self.store.exists(layout.MANIFEST_KEY)

    def require_unsealed(self) -> None:
        """Raise `SealedReleaseError` if there is a manifest."""
        if self.is_sealed():
            raise SealedReleaseError(
                f"{self.store.url} is sealed and cannot be changed; build another release, such as "
                "the next number, by another [release] url"
            )

    # Staging: small JSON notes from one step to the next.

    def note(self, name: str, content: Any) -> None:
        """Keep a JSON note for later steps."""
        data = json.dumps(content, sort_keys=True, indent=1).encode()
        self.store.write(f"{STAGING}/{name}.json", data)

    def read_note(self, name: str) -> Any:
        """A note of an earlier step, or None."""
        try:
            return self.store.read_json(f"{STAGING}/{name}.json", None)
        except FileNotFoundError:
            return None

    # Models and arrays.

    def write_model(self, files: dict[str, bytes]) -> str:
        """Store a model's files under their digest, which is returned."""
        digest = model_digest(files)
        for name in layout.MODEL_FILES:
            self.store.write(f"models/{digest}/{name}", files[name])
        return digest

    def start(self, about: dict[str, Any], groups: dict[str, ImageGroup]) -> None:
        """Root metadata, unless there is some, and the empty arrays of every group.

        Parameters
        ----------
        about : dict
            Goes into the root's attributes: name, sets, held-out sky.
        groups : dict
            By path, such as ``images/night1/int16_4x4``.
        """
        self.require_unsealed()
        if not self.store.exists(layout.ZARR_KEY):
            self.describe(about)
        for path, group in groups.items():
            self.write_arrays(partial(group.create, path=path))

    def describe(self, about: dict[str, Any]) -> None:
        """Set the root's attributes: name, sets, held-out sky, what was set aside."""
        self.require_unsealed()
        attributes = {"skyfold": about | {"format": layout.FORMAT}}
        self.write_arrays(lambda store: zarr.create_group(store, attributes=attributes))

    def write_arrays(self, create: Callable[[Any], Any]) -> None:
        """Write the metadata of groups and arrays, and no data.

        Documents that are as they should be are left alone, and shards of other writers too: the
        same plan can be started by several flows at once.

        Parameters
        ----------
        create : callable
            Called with a Zarr store in memory, in which it creates them.
        """
        self.require_unsealed()
        documents: dict[str, Any] = {}
        create(zarr.storage.MemoryStore(documents))
        for key, buffer in sorted(documents.items()):
            self._write_document(key, buffer.to_bytes())

    def _write_document(self, key: str, data: bytes) -> None:
        try:
            there = json.loads(self.store.read(key))
        except (FileNotFoundError, ValueError):
            there = {}
        wanted = json.loads(data)
        if there and wanted["node_type"] == "group" and not wanted["attributes"]:
            return  # a parent that came along
        there.pop("consolidated_metadata", None)
        wanted.pop("consolidated_metadata", None)
        if there != wanted:
            self.store.write(key, data)

    def arrays(self) -> Callable[[str], zarr.Array[Any]]:
        """What opens an array that `write_arrays` created, by its path, for writing.

        It raises `ReleaseError` if the array is not there.
        """
        return partial(_open_array, self.store.url, self.store.zarr(read_only=False))

    # Images.

    def find_written(self, entry: ImageEntry) -> ImageEntry | None:
        """The entry as written before, if input, model and step are the same and all is there."""
        note = self.read_note(f"images/{note_name(entry.id)}")
        if note is None:
            return None
        written = entry_from_note(note)
        same = all(
            getattr(written, name) == getattr(entry, name)
            for name in ("digest", "recipe", "step", "group", "row", "band", "file", "hdu")
        ) and written.model in ("", entry.model)
        if not same:
            return None
        there = _at_once(lambda layer: self.store.size(shard_key(written, layer)), written.bytes)
        return written if there == written.bytes else None

    def refer(
        self, entries: list[ImageEntry], base: DataRelease | None, model: str
    ) -> tuple[list[ImageEntry], list[ImageEntry]]:
        """Images that an earlier release holds, and those that have to be encoded.

        Parameters
        ----------
        entries : list of ImageEntry
            As planned.
        base : DataRelease or None
            A sealed release beside this one.
        model : str
            Digest of the model in use.

        Returns
        -------
        list of ImageEntry
            With the layers' place in the release that holds them.
        list of ImageEntry
            The others, as they were.
        """
        if base is None:
            return [], entries
        home = base.url.rpartition("/")[2]
        held = {
            (one.recipe, one.set): replace(one, release=one.release or home)
            for one in base.images.entries.values()
            if one.recipe and one.model in ("", model)
        }
        again = [one for one in entries if (one.recipe, one.set) in held]
        details = {name: base.read(details_key(name)) for name in {one.set for one in again}}
        own = ("id", "band", "file", "hdu")
        found = [
            replace(
                _with_details(held[one.recipe, one.set], details[one.set]),
                **{name: getattr(one, name) for name in own},
            )
            for one in again
        ]
        return found, [one for one in entries if (one.recipe, one.set) not in held]

    def write_image(self, entry: ImageEntry, encoded: EncodedImage) -> ImageEntry:
        """Write the layers of one image, then the note that says so.

        Returns
        -------
        ImageEntry
            With mode, noise model, fill values and the bytes of each layer filled in.
        """
        self.require_unsealed()
        mode, sizes = self._write_layers(entry, encoded)
        written = replace(
            entry,
            mode=mode,
            model="" if mode == "direct" else entry.model,
            noise=None if mode == "direct" else encoded.noise,
            quantum=None if mode != "ladder" else encoded.quantum,
            fills=_little_endian(encoded.fills),
            fwhm_pix=encoded.fwhm_pix,
            odd_cells=encoded.odd_cells and mode != "direct",
            dithered=encoded.dithered and mode != "direct",
            bytes={layer: size for layer, size in sorted(sizes.items()) if size},
            places=self._places(entry, sizes),
        )
        self.note(f"images/{note_name(entry.id)}", note_of(written))
        return written

    def _write_layers(self, entry: ImageEntry, encoded: EncodedImage) -> tuple[str, dict[str, int]]:
        """Mode, and bytes by layer: the ladder, unless the raw array by itself is smaller."""
        array = self.arrays()

        def write(layer: str) -> int:
            array(f"images/{entry.set}/{entry.group}/{layer}")[entry.row] = encoded.layers[layer]
            return self.store.size(shard_key(entry, layer))

        mode, sizes = encoded.mode, {}
        quantised = encoded.quantum is not None
        if mode == "ladder":
            names = layers_read("exact", mode, quantised=quantised)
            sizes = _at_once(write, names)
            ladder = sum(sizes[name] for name in names if name not in ("checksum", "flags"))
            direct = _direct_bytes(encoded.layers["direct"], entry.plane, ladder)
            if direct <= ladder - sizes["exact"]:
                mode = "direct"
            elif direct < DIRECT_GAIN * ladder:
                mode = "ladder+direct"
        wanted = {*layers_read("exact", mode, quantised=quantised), *layers_read("latent", mode)}
        wanted |= {*layers_read("bounded", mode)}
        _at_once(lambda name: self.store.delete(shard_key(entry, name)), set(LAYERS) - wanted)
        sizes |= _at_once(write, wanted - set(sizes))
        return mode, {name: size for name, size in sizes.items() if name in wanted}

    def _places(self, entry: ImageEntry, sizes: dict[str, int]) -> bytes:
        """Where the chunks of an image lie, as its shards say."""
        ny, nx = (-(-side // TILE) for side in entry.plane)
        tail = 16 * ny * nx + 4

        def find(layer: str) -> Any:
            key = shard_key(entry, layer)
            with reading(f"{self.store.url}/{key}", "a shard"):
                return shard_index(self.store.read_end(key, tail), ny * nx)

        sharded = [layer for layer, size in sorted(sizes.items()) if size and layer in SHARDED]
        return encode_places(_at_once(find, sharded))

    # The end.

    def write_indexes(self, entries: Iterable[ImageEntry]) -> None:
        """The index of every set."""
        by_set: dict[str, list[ImageEntry]] = {}
        for entry in entries:
            by_set.setdefault(entry.set, []).append(entry)
        for name, members in by_set.items():
            index, details = write_index(members)
            self.store.write(details_key(name), details)
            self.store.write(index_key(name), index)

    def seal(self, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Seal the release; the last step. See `storage.sealing.seal_release`."""
        self.require_unsealed()
        return seal_release(self.store, progress)

    def clear_staging(self) -> None:
        """Remove what a flow left that raced with the seal, or was killed by it."""
        self.store.delete_prefix(STAGING)
        half_written = self.store.sizes() if self.store.is_local else {}
        for key in half_written:
            if key.endswith(PARTIAL):
                self.store.delete(key)


def _at_once(act: Callable[[str], _T], names: Iterable[str]) -> dict[str, _T]:
    """What `act` returns for each name; requests of object storage wait side by side."""
    names = list(names)
    with ThreadPoolExecutor(len(LAYERS)) as threads:
        return dict(zip(names, threads.map(act, names), strict=True))


def _open_array(url: str, arrays: Any, path: str) -> zarr.Array[Any]:
    try:
        return zarr.open_array(arrays, path=path, mode="r+", zarr_format=3)
    except FileNotFoundError as error:
        raise ReleaseError(
            f"{url} has no array {path} to write to: it was removed, or the store does not tell of "
            "it yet; run encode again"
        ) from error


def _direct_bytes(stored: np.ndarray[Any, Any], plane: tuple[int, int], ladder: int) -> int:
    """Bytes of the raw array coded by itself, with its shard index, from a sample of its tiles.

    A few tiles will do where they are clearly more than those of the ladder. Tiles at the edge
    count by the pixels that they have of the image, whose shape is `plane`.
    """
    codec = layout.direct_codec(stored.dtype.name)
    places = list(np.ndindex(stored.shape[0] // TILE, stored.shape[1] // TILE))
    sizes: dict[tuple[int, ...], int] = {}
    for count in SAMPLED_TILES:
        some = places[:: -(-len(places) // count)]
        for y, x in set(some) - set(sizes):
            tile = stored[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
            sizes[y, x] = len(codec.encode_chunk(tile[np.newaxis])) + 16
        pixels = sum(
            min(TILE, plane[0] - y * TILE) * min(TILE, plane[1] - x * TILE) for y, x in sizes
        )
        total = round(sum(sizes.values()) * plane[0] * plane[1] / pixels)
        if total > CLEARLY * ladder:
            break
    return total


def _little_endian(values: np.ndarray[Any, Any]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def plan_groups(
    entries: list[ImageEntry], channels: int, tables: str
) -> tuple[list[ImageEntry], dict[str, ImageGroup]]:
    """Entries with their group and row, and the groups by path; the same input, the same plan."""
    counts: dict[str, int] = {}
    placed, groups = [], {}
    for entry in entries:
        ny, nx = entry.plane
        group = ImageGroup(0, (-(-ny // TILE), -(-nx // TILE)), entry.dtype, channels, tables)
        path = f"images/{entry.set}/{group.name}"
        row = counts.get(path, 0)
        counts[path] = row + 1
        placed.append(replace(entry, group=group.name, row=row))
        groups[path] = replace(group, count=row + 1)
    return placed, groups


def describe_image(image: SurveyImage, *, model: str, step: float) -> ImageEntry:
    """Index entry of an image that was read and not yet encoded."""
    wcs = sky.read_wcs(image.header)
    plane = image.stored.shape
    place = sky.footprint(wcs, (plane[0], plane[1])) if wcs is not None else None
    ref = image.ref
    return ImageEntry(
        id=ref.id,
        set=ref.set,
        band=ref.band,
        file=ref.file,
        hdu=ref.hdu,
        group="",
        row=0,
        shape=tuple(int(side) for side in image.shape),
        dtype=image.stored.dtype.name,
        mode="direct",
        model=model,
        step=step,
        bscale=image.bscale,
        bzero=image.bzero,
        blank=image.blank,
        fills=b"",
        noise=None,
        quant_step=image.quant_step,
        fwhm_pix=None,
        time=image.time,
        ra=place[0] if place else None,
        dec=place[1] if place else None,
        radius_deg=place[2] if place else None,
        healpix=place[3] if place else (),
        digest=image.digest,
        unit=str(image.header.get("BUNIT", "")).strip(),
        wcs=sky.wcs_cards(image.header),
        header=image.header.tostring(sep="\n", padding=False),
        recipe=_recipe(image, step),
    )


def _with_details(entry: ImageEntry, details: bytes) -> ImageEntry:
    """Entry with the places of its chunks and its header, from the details of its set."""
    start, places, header = entry.details
    cards = decode_header(details[start + places : start + places + header], entry.id)
    return replace(entry, places=details[start : start + places], header=cards)


def _recipe(image: SurveyImage, step: float) -> str:
    """Digest of all input that the layers depend on; the model comes on top."""
    facts = [WRITER, image.digest, image.ref.hdu, step, image.gain, image.quant_step, image.time]
    found = hashlib.sha256(json.dumps([*facts, image.ref.band]).encode())
    for plane in (image.mask, image.variance):
        found.update(b"-" if plane is None else np.ascontiguousarray(plane).data)
    return found.hexdigest()


def note_name(image_id: str) -> str:
    """Name of the note about an image: its id may hold slashes."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:24]


def note_of(entry: ImageEntry) -> dict[str, Any]:
    """Entry as JSON."""
    row = entry.to_row()
    return row | {name: base64.b64encode(row[name]).decode() for name in _BINARY}


def entry_from_note(note: dict[str, Any]) -> ImageEntry:
    """Inverse of `note_of`."""
    binary = {name: base64.b64decode(note[name]) for name in _BINARY}
    return ImageEntry.from_row(note | binary)
