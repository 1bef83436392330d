"""A release being written: its root, models, empty arrays, notes between steps, and the seal.

Every step can be repeated: the same content is written again, or found to be there; the manifest
comes last and only if it does not exist. State that is not part of the release lies under
`_staging/` and is removed when the release is sealed.
"""

from __future__ import annotations

import json
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import zarr

from skyfold import layout
from skyfold.access.store import Store
from skyfold.errors import ReleaseError, SealedReleaseError
from skyfold.images.network import model_digest
from skyfold.layout import STAGING
from storage.sealing import PARTIAL, seal_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyfold.layout import ImageGroup


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

    @cached_property
    def document(self) -> Callable[[str], bytes]:
        """Metadata of an array by its path, looked up once; ReleaseError if there is none."""

        def read(path: str) -> bytes:
            try:
                return self.store.read(f"{path}/{layout.ZARR_KEY}")
            except FileNotFoundError as error:
                raise _no_array(self.store.url, path) from error

        return cache(read)

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


def _open_array(url: str, arrays: Any, path: str) -> zarr.Array[Any]:
    try:
        return zarr.open_array(arrays, path=path, mode="r+", zarr_format=3)
    except FileNotFoundError as error:
        raise _no_array(url, path) from error


def _no_array(url: str, path: str) -> ReleaseError:
    return ReleaseError(
        f"{url} has no array {path} to write to: it was removed, or the store does not tell of it "
        "yet; run encode again"
    )
