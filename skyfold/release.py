"""A data release: opening it by URL, its summary, its record, verifying it."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from skyfold import layout
from skyfold.access.cache import CachedReader, DiskCache, MemoryCache, disk_cache
from skyfold.access.contents import ReleaseContents
from skyfold.access.root import check_stated, read_root
from skyfold.access.store import Store
from skyfold.access.trust import (
    check_key,
)
from skyfold.errors import (
    CorruptDataError,
    InvalidRequestError,
    StoreUnavailableError,
    UnsealedReleaseError,
)
from skyfold.ladder import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyfold.catalogs.library import CatalogLibrary
    from skyfold.densities.library import DensityLibrary
    from skyfold.fidelity.record import Choice, FidelityRecord
    from skyfold.images.library import ImageLibrary
    from skyfold.images.network import Network
    from skyfold.objects.library import ObjectLibrary

T = TypeVar("T")


def open_release(
    url: str | os.PathLike[str],
    *,
    options: dict[str, Any] | None = None,
    unsealed: bool = False,
    cache: bool | str | os.PathLike[str] | DiskCache | None = None,
    max_bytes: int | None = None,
) -> DataRelease:
    """Open a data release.

    Parameters
    ----------
    url : str or Path
        Folder, ``s3://bucket/product/release`` or ``https://host/path``.
    options : dict, optional
        For the file system, such as ``{"anon": True}``, ``{"profile": "survey"}`` or
        ``{"endpoint_url": ...}`` of s3fs. Credentials are taken from the environment as the file
        system's library does.
    unsealed : bool
        Also open a release that is still being written.
    cache : bool, path or DiskCache, optional
        Keep what is read in a folder, of at most 1 GB unless a
        `skyfold.access.cache.DiskCache` says otherwise; any number of processes may share it.
        By default the environment decides: `SKYFOLD_CACHE` names a folder,
        `SKYFOLD_CACHE_BYTES` its limit.
    max_bytes : int, optional
        Memory that what one request returns may take; half of the machine's, or
        `SKYFOLD_MAX_BYTES`, unless given. What would take more raises `MemoryCapError` before it
        is fetched.

    Returns
    -------
    DataRelease

    Raises
    ------
    InvalidRequestError, ReleaseNotFoundError, UnsealedReleaseError, FormatVersionError,
    StoreUnavailableError, CorruptDataError

    Examples
    --------
    >>> release = skyfold.open_release("s3://bucket/demo/dr1")  # doctest: +SKIP
    """
    if not isinstance(url, str | os.PathLike) or not os.fspath(url):
        raise InvalidRequestError(
            f"release {url!r}: give its folder, or an address such as s3://bucket/product/release"
        )
    store = Store(url, options)
    data, root = read_root(store)
    seal = store.fingerprint(layout.MANIFEST_KEY)
    if seal is None and not unsealed:
        raise UnsealedReleaseError(f"{store.url} is not sealed: {_why_unsealed(store)}")
    check_stated(data, root, store, sealed=seal is not None)
    digest = hashlib.sha256(data).hexdigest()
    identity = "\n".join([store.url, str(seal), digest])
    disk, memory = (disk_cache(cache), MemoryCache()) if seal is not None else (None, None)
    reader = CachedReader(store, identity, disk=disk, memory=memory)
    return DataRelease(reader, root, sealed=seal is not None, max_bytes=max_bytes)


def _why_unsealed(store: Store) -> str:
    """What keeps a release from being published, as far as its build has noted it."""
    try:
        reason = store.read_json(layout.QUARANTINE_KEY)["reason"]
    except (FileNotFoundError, StoreUnavailableError, CorruptDataError, KeyError, TypeError):
        return (
            "it is still being written, or its build was stopped; wait for it, or finish it with "
            "`python -m flows publish`"
        )
    return f"it is in quarantine: {reason}"


class DataRelease(ReleaseContents):
    """A data release; made by `open_release`.

    It may be used from several threads, and sent to other processes: there it is opened anew, once
    a process.

    Attributes
    ----------
    url, name : str
    sealed : bool
        Whether it is complete and immutable.
    images : ImageLibrary
    catalogs, densities : mapping
        By name.
    levels : tuple of str
        Fidelity levels, coarsest first.
    traffic : Traffic
        Requests and bytes that reading it has cost so far.
    max_bytes : int
        Memory that what one request returns may take.
    """

    levels = LEVELS

    def __reduce__(self) -> tuple[Any, ...]:
        disk = self.reader.disk
        arguments = (self.url, self.store.options, not self.sealed, disk, self.max_bytes)
        return _open_once, arguments

    def _names(self, kind: str) -> list[str]:
        return sorted(self.about.get(kind, []))

    @property
    def images(self) -> ImageLibrary:
        """Images, by id and by position."""
        from skyfold.images.library import ImageLibrary

        return self._part("images", lambda: ImageLibrary(self, self._names("images")))

    @property
    def catalogs(self) -> CatalogLibrary:
        """Catalogs by name."""
        from skyfold.catalogs.library import CatalogLibrary

        return self._part("catalogs", lambda: CatalogLibrary(self, self._names("catalogs")))

    @property
    def densities(self) -> DensityLibrary:
        """Sets of probability densities by name."""
        from skyfold.densities.library import DensityLibrary

        return self._part("densities", lambda: DensityLibrary(self, self._names("densities")))

    @property
    def objects(self) -> ObjectLibrary:
        """Objects of the images: by place, by likeness, by novelty."""
        from skyfold.objects.library import ObjectLibrary

        return self._part("objects", lambda: ObjectLibrary(self))

    @property
    def name(self) -> str:
        """Name of the release, such as ``dr1``."""
        return str(self.about.get("name", self.url.rsplit("/", 1)[-1]))

    def __repr__(self) -> str:
        state = "sealed" if self.sealed else "NOT SEALED"
        kinds = {kind: self.about.get(kind, []) for kind in ("images", "catalogs", "densities")}
        held = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names)
        return f"<DataRelease {self.name} at {self.url}: {held or 'empty'}; {state}>"

    def _repr_html_(self) -> str:
        from skyfold.pages import release_html

        return release_html(self)

    def home(self, name: str) -> DataRelease:
        """The release that holds an image's layers, or an earlier one; else CorruptDataError."""
        if not name:
            return self

        def make() -> DataRelease:
            if "/" in check_key(name):
                raise CorruptDataError(f"{self.url} names {name!r}, which is no release beside it")
            url = f"{self.url.rpartition('/')[0]}/{name}"
            cache = self.reader.disk or False
            earlier = open_release(
                url, options=self.store.options, cache=cache, max_bytes=self.max_bytes
            )
            earlier.store.traffic = self.store.traffic
            return earlier

        return self._part(f"release {name}", make)

    def holder(self, path: str) -> DataRelease:
        """The release that holds a table, such as ``catalogs/galaxies``: this or an earlier one."""
        return self.home(self.about.get("held", {}).get(path, ""))

    def network(self, digest: str) -> Network:
        """Model of a digest, checked and ready to run."""
        from skyfold.access.graph_check import MAX_MODEL_BYTES
        from skyfold.images.network import Network

        def make() -> Network:
            files = self.model_files(digest, layout.MODEL_FILES, MAX_MODEL_BYTES)
            return Network(files, digest)

        return self._part(f"network {digest}", make)

    @property
    def fidelity(self) -> FidelityRecord:
        """The fidelity record: measured loss of every science case at every level."""
        from skyfold.fidelity.record import FidelityRecord

        def make() -> FidelityRecord:
            return FidelityRecord.from_ecsv(self.read(layout.FIDELITY_KEY).decode())

        return self._part("fidelity", make)

    def choose(self, case: str, need: Any, **where: Any) -> str:
        """Cheapest level that is recorded to meet a need.

        Parameters
        ----------
        case : str
            Science case, such as ``"photometry"``.
        need : str or Need, or a list of them
            Such as ``"0.1 sigma at S/N 10"``.
        **where
            `kind`, `set`, `band`, `levels`, as in `FidelityRecord.choose`.

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

    def plot_som(self, name: str | None = None, plane: str = "u_matrix") -> Any:
        """A self-organizing map of the objects, or of a catalog; see `skyfold.plot.plot_som`."""
        from skyfold.plot import plot_som

        return plot_som(self, name, plane)

    def plot_fidelity(
        self, case: str = "photometry", measure: str | None = None, ax: Any = None
    ) -> Any:
        """Recorded loss against bits per pixel; see `skyfold.plot.plot_fidelity`."""
        from skyfold.plot import plot_fidelity

        return plot_fidelity(self, case, measure, ax)

    def info(self) -> dict[str, Any]:
        """What is in the release: sets, levels, bytes, bits per pixel, what was set aside."""
        from skyfold.summary import release_info

        return release_info(self)

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        sample: float = 1.0,
        seed: int = 0,
        threads: int = 8,
    ) -> dict[str, str]:
        """Compare objects with the manifest: all keys and sizes, and the digests of all or some.

        Parameters
        ----------
        progress : callable, optional
            Called with objects done and in all.
        sample : float
            Share of the layers' objects that are read, above 0 and up to 1; all others always are.
        seed : int
            Of the choice.
        threads : int
            Objects that are read at once; each takes up to 16 MB of memory.

        Returns
        -------
        dict
            What is wrong, by key; empty if the release is as it was sealed.

        Raises
        ------
        InvalidRequestError
            If the sample is not above 0 and up to 1.
        """
        from skyfold.access.verification import verify_release

        return verify_release(self, progress, sample, seed, threads)


_opened: weakref.WeakValueDictionary[Any, DataRelease] = weakref.WeakValueDictionary()
_opened_lock = threading.Lock()


def _open_once(
    url: str,
    options: Mapping[str, Any],
    unsealed: bool,
    cache: DiskCache | None,
    max_bytes: int,
) -> DataRelease:
    """Release that another process sent; the tasks of a process share one."""
    key = (os.getpid(), url, repr(sorted(options.items())), unsealed)
    with _opened_lock:
        release = _opened.get(key)
        if release is None:
            release = open_release(
                url,
                options=dict(options),
                unsealed=unsealed,
                cache=cache or False,
                max_bytes=max_bytes,
            )
            _opened[key] = release
        return release
