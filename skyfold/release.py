"""A data release: opening it by URL, its summary, its record, verifying it."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import zarr

from skyfold import layout
from skyfold.catalogs import CatalogLibrary
from skyfold.densities import DensityLibrary
from skyfold.errors import (
    CorruptDataError,
    FormatVersionError,
    ReleaseNotFoundError,
    UnsealedReleaseError,
)
from skyfold.fidelity import Choice, FidelityRecord
from skyfold.images import ImageLibrary
from skyfold.ladder import LEVELS
from skyfold.network import MAX_MODEL_BYTES, Network
from skyfold.store import Store, named_store_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

_VERIFY_THREADS = 8


def open_release(
    url: str | os.PathLike[str],
    *,
    options: dict[str, Any] | None = None,
    unsealed: bool = False,
) -> DataRelease:
    """Open a data release.

    Parameters
    ----------
    url : str or Path
        Folder, ``s3://bucket/product/release`` or ``https://host/path``.
    options : dict, optional
        For the file system, such as ``{"anon": True}`` of s3fs. Credentials are taken from the
        environment as the file system's library does.
    unsealed : bool
        Also open a release that is still being written.

    Returns
    -------
    DataRelease

    Raises
    ------
    ReleaseNotFoundError, UnsealedReleaseError, FormatVersionError, StoreUnavailableError

    Examples
    --------
    >>> release = skyfold.open_release("s3://bucket/demo/dr1")  # doctest: +SKIP
    """
    store = Store(url, options)
    try:
        root = json.loads(store.read(layout.ZARR_KEY))
        about = root["attributes"]["skyfold"]
    except FileNotFoundError as error:
        raise ReleaseNotFoundError(
            f"no release at {store.url}: it has no {layout.ZARR_KEY}; check the URL"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseNotFoundError(
            f"{store.url}/{layout.ZARR_KEY} does not describe a skyfold release; check the URL"
        ) from error
    version = about.get("format")
    if version != layout.FORMAT:
        raise FormatVersionError(
            f"{store.url} has format {version!r}; this version of skyfold reads {layout.FORMAT}: "
            "upgrade skyfold"
        )
    sealed = store.exists(layout.MANIFEST_KEY)
    if not sealed and not unsealed:
        raise UnsealedReleaseError(
            f"{store.url} is not sealed: it is still being written, or its build was stopped; wait "
            "for it, or finish it with `python -m flows publish`"
        )
    return DataRelease(store, about, sealed=sealed)


class DataRelease:
    """A data release; made by `open_release`.

    Attributes
    ----------
    url, name : str
    sealed : bool
        Whether it is complete and immutable.
    images : ImageLibrary
    catalogs, densities : dict
        By name.
    levels : tuple of str
        Fidelity levels, coarsest first.
    """

    levels = LEVELS

    def __init__(self, store: Store, about: dict[str, Any], *, sealed: bool) -> None:
        self.store = store
        self.about = about
        self.sealed = sealed
        self.images = ImageLibrary(self, sorted(about.get("images", [])))
        self.catalogs = CatalogLibrary(self, sorted(about.get("catalogs", [])))
        self.densities = DensityLibrary(self, sorted(about.get("densities", [])))
        self._reset()

    def _reset(self) -> None:
        self._group: zarr.Group | None = None
        self._networks: dict[str, Network] = {}
        self._record: FidelityRecord | None = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        private = ("_group", "_networks", "_record", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in private}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def url(self) -> str:
        """Where the release is."""
        return self.store.url

    @property
    def name(self) -> str:
        """Name of the release, such as ``dr1``."""
        return str(self.about.get("name", self.url.rsplit("/", 1)[-1]))

    def __repr__(self) -> str:
        state = "sealed" if self.sealed else "NOT SEALED"
        return f"<DataRelease {self.name} at {self.url}: {len(self.images)} images, {state}>"

    def read(self, key: str) -> bytes:
        """Whole object of the release; CorruptDataError if it is missing."""
        try:
            return self.store.read(key)
        except FileNotFoundError as error:
            raise CorruptDataError(
                f"{self.url}/{key} is missing; the release is not complete: run `skyfold verify`"
            ) from error

    @property
    def group(self) -> zarr.Group:
        """Root group of the Zarr arrays."""
        with self._lock:
            if self._group is None:
                with named_store_errors(self.url, "open"):
                    self._group = zarr.open_group(
                        self.store.zarr(), mode="r", use_consolidated=self.sealed or None
                    )
            return self._group

    def network(self, digest: str) -> Network:
        """Model of a digest, checked and ready to run."""
        with self._lock:
            if digest not in self._networks:
                self._networks[digest] = Network(self._model_files(digest), digest)
            return self._networks[digest]

    def _model_files(self, digest: str) -> dict[str, bytes]:
        keys = {name: f"models/{digest}/{name}" for name in layout.MODEL_FILES}
        for key in keys.values():
            if self.store.size(key) > MAX_MODEL_BYTES:
                raise CorruptDataError(f"{self.url}/{key} is larger than {MAX_MODEL_BYTES} bytes")
        return {name: self.read(key) for name, key in keys.items()}

    @property
    def fidelity(self) -> FidelityRecord:
        """The fidelity record: measured loss of every science case at every level."""
        if self._record is None:
            text = self.read(layout.FIDELITY_KEY).decode()
            self._record = FidelityRecord.from_ecsv(text)
        return self._record

    def choose(self, case: str, need: Any, **where: Any) -> str:
        """Cheapest level that is recorded to meet a need.

        Parameters
        ----------
        case : str
            Science case, such as ``"photometry"``.
        need : str or Need, or a list of them
            Such as ``"0.1 sigma at S/N 10"``.
        **where
            `kind`, `set`, `band`, as in `FidelityRecord.choose`.

        Returns
        -------
        str
            Level.

        Raises
        ------
        NeedNotMetError
            If no level is recorded to meet it; ``table`` holds the rows considered.
        UnknownNameError, InvalidNeedError
        """
        return self.choice(case, need, **where).level

    def choice(self, case: str, need: Any, **where: Any) -> Choice:
        """As `choose`, with bytes, bits per pixel and the row of the record that decided."""
        return self.fidelity.choose(case, need, **where)

    def info(self) -> dict[str, Any]:
        """What is in the release: sets, levels, bytes, bits per pixel, what was set aside."""
        return {
            "name": self.name,
            "url": self.url,
            "sealed": self.sealed,
            "format": self.about["format"],
            "images": {name: self._image_set_info(name) for name in self.images.sets},
            "catalogs": {name: one.info() for name, one in self.catalogs.items()},
            "densities": {name: one.info() for name, one in self.densities.items()},
            "set_aside": self.about.get("set_aside", []),
            "quarantined": self.about.get("quarantined", []),
        }

    def _image_set_info(self, name: str) -> dict[str, Any]:
        entries = [entry for entry in self.images.entries.values() if entry.set == name]
        pixels = sum(entry.pixels for entry in entries)
        stored = {level: sum(entry.bytes_at(level) for entry in entries) for level in LEVELS}
        return {
            "count": len(entries),
            "pixels": pixels,
            "bands": sorted({entry.band for entry in entries}),
            "bound": max((entry.bound for entry in entries), default=0.0),
            "levels": {
                level: {"bytes": size, "bpp": 8 * size / max(pixels, 1)}
                for level, size in stored.items()
            },
        }

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every object, by key; CorruptDataError if it was changed."""
        key = layout.MANIFEST_KEY
        try:
            manifest = json.loads(self.read(key))
            objects: dict[str, dict[str, Any]] = manifest["objects"]
            intact = manifest["digest"] == manifest_digest(objects)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"{self.url}/{key} cannot be read: {error}") from error
        if not intact:
            raise CorruptDataError(f"{self.url}/{key} does not have the digest that it states")
        return objects

    def verify(self, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """Compare every object with the manifest.

        Parameters
        ----------
        progress : callable, optional
            Called with objects done and in all.

        Returns
        -------
        dict
            What is wrong, by key; empty if the release is as it was sealed.
        """
        try:
            objects = self.manifest()
        except CorruptDataError as error:
            return {layout.MANIFEST_KEY: str(error)}
        problems = {
            key: "not in the manifest"
            for key in self.store.sizes()
            if key not in objects and key != layout.MANIFEST_KEY
        }
        with ThreadPoolExecutor(_VERIFY_THREADS) as pool:
            found = pool.map(lambda item: (item[0], self._verify_object(*item)), objects.items())
            for done, (key, problem) in enumerate(found, 1):
                if problem:
                    problems[key] = problem
                if progress:
                    progress(done, len(objects))
        return dict(sorted(problems.items()))

    def _verify_object(self, key: str, stated: dict[str, Any]) -> str | None:
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            return "missing"
        if len(data) != stated["size"]:
            return f"has {len(data)} bytes, the manifest states {stated['size']}"
        met = hashlib.sha256(data).hexdigest()
        return None if met == stated["sha256"] else f"has SHA-256 {met}, not as the manifest states"


def manifest_digest(objects: dict[str, dict[str, Any]]) -> str:
    """SHA-256, hex, of a manifest's objects as compact JSON with sorted keys."""
    text = json.dumps(objects, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
