"""What lies in a release, by key: bytes that have their digest, arrays, models, the manifest.

Everything here is made when it is first used, once, whatever thread asks for it.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from skyfold import layout
from skyfold.access.seal import read_manifest
from skyfold.access.store_errors import named_store_errors
from skyfold.access.trust import MAX_MANIFEST_BYTES, default_cap, load_json
from skyfold.errors import CorruptDataError, SkyfoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import zarr

    from skyfold.access.cache import CachedReader
    from skyfold.access.traffic import Traffic

T = TypeVar("T")


class ReleaseContents:
    """Objects of a release.

    Parameters
    ----------
    reader : CachedReader
    root : dict
        Its ``zarr.json``.
    sealed : bool
    max_bytes : int, optional
        Memory that what one request returns may take.
    """

    def __init__(
        self,
        reader: CachedReader,
        root: dict[str, Any],
        *,
        sealed: bool,
        max_bytes: int | None = None,
    ) -> None:
        self.reader = reader
        self.max_bytes = default_cap() if max_bytes is None else max_bytes
        self.store = reader.store
        self.about: dict[str, Any] = root["attributes"]["skyfold"]
        self.sealed = sealed
        consolidated = root.get("consolidated_metadata") or {}
        self._metadata: dict[str, Any] = consolidated.get("metadata", {}) if sealed else {}
        self._lock = threading.RLock()
        self._parts: dict[str, Any] = {}

    def _part(self, name: str, make: Callable[[], T]) -> T:
        """Something that is made when it is first used."""
        with self._lock:
            if name not in self._parts:
                self._parts[name] = make()
            found: T = self._parts[name]
            return found

    @property
    def url(self) -> str:
        """Where the release is."""
        return self.store.url

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes that reading has cost so far."""
        return self.store.traffic

    def read(self, key: str) -> bytes:
        """Whole object of the release.

        Raises
        ------
        CorruptDataError
            If it is missing, or has another digest than the release's root states.
        """
        try:
            data = self.reader.read(key)
        except FileNotFoundError as error:
            raise self._missing(key) from error
        stated = self.about.get("digests", {}).get(key)
        if self.sealed and stated is not None and hashlib.sha256(data).hexdigest() != stated:
            raise CorruptDataError(
                f"{self.url}/{key} does not have the SHA-256 {stated} that {layout.ZARR_KEY} "
                "states; run `skyfold verify`"
            )
        return data

    def _missing(self, key: str) -> CorruptDataError:
        return CorruptDataError(
            f"{self.url}/{key} is missing; the release is not complete: run `skyfold verify`"
        )

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | SkyfoldError]:
        """Parts of objects (key, first byte, byte after the last), in one round of requests.

        What cannot be read has an error in its place.
        """
        try:
            return list(self.reader.read_ranges(ranges))
        except (FileNotFoundError, SkyfoldError) as error:
            keys = list(dict.fromkeys(key for key, _, _ in ranges))
            if len(keys) == 1:
                if isinstance(error, SkyfoldError):
                    return [error] * len(ranges)
                return [self._missing(keys[0])] * len(ranges)
        found = {  # object by object, so that one that is missing fails by itself
            key: iter(self.read_ranges([one for one in ranges if one[0] == key])) for key in keys
        }
        return [next(found[key]) for key, _, _ in ranges]

    def metadata(self, path: str) -> dict[str, Any]:
        """Zarr metadata of an array; CorruptDataError if there is none."""
        found = self._metadata.get(path)
        try:
            metadata: dict[str, Any] = found or load_json(
                self.read(f"{path}/{layout.ZARR_KEY}"), f"{path}/{layout.ZARR_KEY}"
            )
            metadata["shape"], metadata["codecs"]  # a group has none
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{self.url}/{path} is not described as an array: {error}; run `skyfold verify`"
            ) from error
        return metadata

    def array(self, path: str, spec: Mapping[str, Any]) -> zarr.Array[Any]:
        """Zarr array that is as the layout says; see `skyfold.access.arrays.open_array`."""
        from skyfold.access.arrays import open_array
        from skyfold.access.zarr_store import ReaderStore

        store = self._part("zarr store", lambda: ReaderStore(self.reader))
        return self._part(f"array {path}", lambda: open_array(self, store, path, spec))

    @property
    def group(self) -> zarr.Group:
        """Root group of the Zarr arrays."""

        def make() -> zarr.Group:
            import zarr

            from skyfold.access.zarr_store import ReaderStore

            with named_store_errors(self.url, "open"):
                return zarr.open_group(
                    ReaderStore(self.reader), mode="r", use_consolidated=self.sealed or None
                )

        return self._part("group", make)

    def model_files(self, digest: str, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Files of a model, none of which may take more bytes than a limit.

        Parameters
        ----------
        digest : str
            Of the model.
        names : sequence of str
            Of the files.
        limit : int
            No more is fetched.

        Raises
        ------
        CorruptDataError
            If one is missing or larger.
        """
        keys = [f"models/{digest}/{name}" for name in names]
        files = {}
        found = self.read_ranges([(key, 0, limit + 1) for key in keys])
        for name, data in zip(names, found, strict=True):
            if isinstance(data, SkyfoldError):
                raise data
            if len(data) > limit:
                raise CorruptDataError(
                    f"{self.url}/models/{digest}/{name} is larger than {limit} bytes; fetch the "
                    "release again, or ask its publisher"
                )
            files[name] = data
        return files

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every object, by key; CorruptDataError if it was changed."""
        key = layout.MANIFEST_KEY
        name = f"{self.url}/{key}"
        try:  # past the cache, which may hold it from before
            return read_manifest(self.store.read(key, MAX_MANIFEST_BYTES), name)
        except FileNotFoundError as error:
            raise self._missing(key) from error
