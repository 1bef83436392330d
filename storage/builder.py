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
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from skyfold import layout, sky
from skyfold.codecs.blocks import BlocksCodec
from skyfold.errors import ReleaseError, SealedReleaseError
from skyfold.index import ImageEntry, index_key, write_index
from skyfold.ladder import TILE
from skyfold.layout import LAYERS, ImageGroup, layers_read
from skyfold.network import model_digest
from skyfold.release import manifest_digest
from skyfold.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from storage.encoder import EncodedImage
    from storage.survey import SurveyImage

STAGING = "_staging"
DIRECT_GAIN = 0.98  # the raw array is stored by itself where that is smaller than this times
_HASH_THREADS = 8


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
            return json.loads(self.store.read(f"{STAGING}/{name}.json"))
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
        """Root metadata and the empty arrays of every group.

        Parameters
        ----------
        about : dict
            Goes into the root's attributes: name, sets, held-out sky.
        groups : dict
            By path, such as ``images/night1/int16_4x4``.
        """
        self.describe(about)
        writable = self.store.zarr(read_only=False)
        root = zarr.open_group(writable, mode="r+")
        for path, group in groups.items():
            if not self._has_arrays(root, path, group):
                group.create(writable, path)

    def describe(self, about: dict[str, Any]) -> None:
        """Set the root's attributes: name, sets, held-out sky, what was set aside."""
        self.require_unsealed()
        root = zarr.open_group(self.store.zarr(read_only=False), mode="a")
        root.update_attributes({"skyfold": about | {"format": layout.FORMAT}})

    def _has_arrays(self, root: zarr.Group, path: str, group: ImageGroup) -> bool:
        """Whether a group's arrays are there as planned; others are made anew, and emptied."""
        try:
            arrays = {layer: _array(root, f"{path}/{layer}") for layer in LAYERS}
        except KeyError:
            return False
        latent, direct = arrays["latent"], arrays["direct"]
        same_tables = group.tables in json.dumps(latent.metadata.to_dict(), default=str)
        shape = (group.count, group.tiles[0] * TILE, group.tiles[1] * TILE)
        return same_tables and direct.shape == shape and latent.shape[-1] == group.channels

    # Images.

    def find_written(self, entry: ImageEntry) -> ImageEntry | None:
        """The entry as written before, if input, model and step are the same and all is there."""
        note = self.read_note(f"images/{note_name(entry.id)}")
        if note is None:
            return None
        written = entry_from_note(note)
        same = all(
            getattr(written, name) == getattr(entry, name)
            for name in ("digest", "step", "group", "row", "band", "file", "hdu")
        ) and written.model in ("", entry.model)
        there = same and all(
            self.store.size(self._shard(written, layer)) == size
            for layer, size in written.bytes.items()
        )
        return written if there else None

    def write_image(self, entry: ImageEntry, encoded: EncodedImage) -> ImageEntry:
        """Write the layers of one image, then the note that says so.

        Returns
        -------
        ImageEntry
            With mode, noise model, fill values and the bytes of each layer filled in.
        """
        self.require_unsealed()
        writable = self.store.zarr(read_only=False)
        root = zarr.open_group(writable, mode="r+", use_consolidated=False)
        mode, sizes = self._write_layers(root, entry, encoded)
        written = replace(
            entry,
            mode=mode,
            model="" if mode == "direct" else entry.model,
            noise=None if mode == "direct" else encoded.noise,
            fills=_little_endian(encoded.fills),
            fwhm_pix=encoded.fwhm_pix,
            bytes={layer: size for layer, size in sorted(sizes.items()) if size},
        )
        self.note(f"images/{note_name(entry.id)}", note_of(written))
        return written

    def _write_layers(
        self, root: zarr.Group, entry: ImageEntry, encoded: EncodedImage
    ) -> tuple[str, dict[str, int]]:
        """Mode, and bytes by layer: the ladder, unless the raw array by itself is smaller."""
        direct = _direct_bytes(encoded.layers["direct"])
        mode, sizes = encoded.mode, {}
        if mode == "ladder":
            below = layers_read("bounded", mode)
            sizes = {
                name: self._write_layer(root, entry, name, encoded.layers[name]) for name in below
            }
            base = sum(sizes[name] for name in below if name not in ("checksum", "flags"))
            if direct <= base:
                mode = "direct"
            elif direct < DIRECT_GAIN * (base + self._write_exact(root, entry, encoded, sizes)):
                mode = "ladder+direct"
        wanted = {*layers_read("exact", mode), *layers_read("latent", mode)}
        wanted |= {*layers_read("bounded", mode)}
        for name in set(LAYERS) - wanted:
            self.store.delete(self._shard(entry, name))
            sizes.pop(name, None)
        for name in wanted - set(sizes):
            sizes[name] = self._write_layer(root, entry, name, encoded.layers[name])
        return mode, sizes

    def _write_exact(
        self, root: zarr.Group, entry: ImageEntry, encoded: EncodedImage, sizes: dict[str, int]
    ) -> int:
        sizes["exact"] = self._write_layer(root, entry, "exact", encoded.layers["exact"])
        return sizes["exact"]

    def _write_layer(
        self, root: zarr.Group, entry: ImageEntry, layer: str, values: np.ndarray[Any, Any]
    ) -> int:
        array = _array(root, f"images/{entry.set}/{entry.group}/{layer}")
        array[entry.row] = values
        return self.store.size(self._shard(entry, layer))

    def _shard(self, entry: ImageEntry, layer: str) -> str:
        """Key of the one object that holds an image's layer."""
        axes = 4 if layer in ("latent", "checksum") else 3
        place = "/".join(["c", str(entry.row), *["0"] * (axes - 1)])
        return f"images/{entry.set}/{entry.group}/{layer}/{place}"

    # The end.

    def write_indexes(self, entries: Iterable[ImageEntry]) -> None:
        """The index of every set."""
        by_set: dict[str, list[ImageEntry]] = {}
        for entry in entries:
            by_set.setdefault(entry.set, []).append(entry)
        for name, members in by_set.items():
            self.store.write(index_key(name), write_index(members))

    def seal(self, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Consolidate metadata, remove what is staged, write the manifest; the last step.

        Returns
        -------
        dict
            The manifest's objects.

        Raises
        ------
        SealedReleaseError
            If another process sealed it first.
        ReleaseError
            If the release lacks its fidelity record.
        """
        self.require_unsealed()
        for key in (layout.ZARR_KEY, layout.FIDELITY_KEY, layout.PROVENANCE_KEY):
            if not self.store.exists(key):
                raise ReleaseError(
                    f"{self.store.url} has no {key} and cannot be sealed; run the steps before: "
                    "train, encode, measure"
                )
        with warnings.catch_warnings():
            # record, report and models lie beside the arrays on purpose
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(self.store.zarr(read_only=False))
        self.store.delete_prefix(STAGING)
        objects = self._digests(progress)
        manifest = {
            "format": layout.FORMAT,
            "objects": objects,
            "digest": manifest_digest(objects),
        }
        data = json.dumps(manifest, sort_keys=True, indent=1).encode()
        try:
            self.store.create(layout.MANIFEST_KEY, data)
        except FileExistsError as error:
            raise SealedReleaseError(f"{self.store.url} was sealed by another process") from error
        return objects

    def _digests(self, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
        keys = [key for key in self.store.sizes() if key != layout.MANIFEST_KEY]
        objects = {}
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            for done, (key, data) in enumerate(
                zip(keys, pool.map(_describe_of(self.store), keys), strict=True), 1
            ):
                objects[key] = data
                if progress:
                    progress(done, len(keys))
        return objects


def _array(root: zarr.Group, path: str) -> zarr.Array[Any]:
    found = root[path]
    if not isinstance(found, zarr.Array):
        raise KeyError(path)
    return found


def _describe_of(store: Store) -> Callable[[str], dict[str, Any]]:
    def describe(key: str) -> dict[str, Any]:
        data = store.read(key)
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    return describe


def _direct_bytes(stored: np.ndarray[Any, Any]) -> int:
    """Bytes of the raw array coded by itself, tile by tile, with its part of the shard index."""
    codec = BlocksCodec()
    ny, nx = (side // TILE for side in stored.shape)
    tiles = (
        stored[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] for y, x in np.ndindex(ny, nx)
    )
    return sum(len(codec.encode_chunk(tile[np.newaxis])) + 16 for tile in tiles)


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
        header=image.header.tostring(sep="\n", padding=False),
    )


def note_name(image_id: str) -> str:
    """Name of the note about an image: its id may hold slashes."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:24]


def note_of(entry: ImageEntry) -> dict[str, Any]:
    """Entry as JSON."""
    return entry.to_row() | {"fills": base64.b64encode(entry.fills).decode()}


def entry_from_note(note: dict[str, Any]) -> ImageEntry:
    """Inverse of `note_of`."""
    return ImageEntry.from_row(note | {"fills": base64.b64decode(note["fills"])})
