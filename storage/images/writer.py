"""Images of a release: written once, found again, or taken from an earlier release.

What is written is named by what it was made of, so that an image whose shards are there, from the
same input, model and step, is skipped; a shard has one writer, and its note comes last.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from skyfold.images.details import decode_header, details_key
from skyfold.images.index import ImageEntry, index_key, shard_key, write_index
from skyfold.layout import LAYERS
from storage.images.entries import entry_from_note, note_name, note_of
from storage.images.shards import make_shards, places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skyfold.access.store import Store
    from skyfold.release import DataRelease
    from storage.builder import ReleaseBuilder
    from storage.images.encoder import EncodedImage

_T = TypeVar("_T")


def find_written(builder: ReleaseBuilder, entry: ImageEntry) -> ImageEntry | None:
    """The entry as written before, if input, model and step are the same and all is there."""
    note = builder.read_note(f"images/{note_name(entry.id)}")
    if note is None:
        return None
    written = entry_from_note(note)
    same = all(
        getattr(written, name) == getattr(entry, name)
        for name in ("digest", "recipe", "step", "group", "row", "band", "file", "hdu")
    ) and written.model in ("", entry.model)
    if not same:
        return None
    store = builder.store
    there = _at_once(store, lambda layer: store.size(shard_key(written, layer)), written.bytes)
    return written if there == written.bytes else None


def refer(
    entries: list[ImageEntry], base: DataRelease | None, model: str
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


def _with_details(entry: ImageEntry, details: bytes) -> ImageEntry:
    """Entry with the places of its chunks and its header, from the details of its set."""
    start, places, header = entry.details
    cards = decode_header(details[start + places : start + places + header], entry.id)
    return replace(entry, places=details[start : start + places], header=cards)


def write_image(
    builder: ReleaseBuilder, entry: ImageEntry, encoded: EncodedImage, *, smallest: str = "reads"
) -> ImageEntry:
    """Write the layers of one image, then the note that says so.

    Parameters
    ----------
    builder : ReleaseBuilder
    entry : ImageEntry
        As planned: with group and row.
    encoded : EncodedImage
    smallest : {"reads", "storage"}
        As `storage.images.shards.make_shards` takes it.

    Returns
    -------
    ImageEntry
        With mode, noise model, fill values and the bytes of each layer filled in.
    """
    builder.require_unsealed()
    group = f"images/{entry.set}/{entry.group}"
    store = builder.store
    documents = _at_once(store, lambda layer: builder.document(f"{group}/{layer}"), LAYERS)
    mode, shards = make_shards(entry, encoded, documents, smallest=smallest)

    def write(layer: str) -> None:
        key = shard_key(entry, layer)
        if layer in shards:
            store.write(key, shards[layer])
        else:  # of an earlier attempt with another outcome
            store.delete(key)

    _at_once(store, write, LAYERS)
    written = (encoded if mode != "direct" else encoded.without_ladder()).described(entry)
    written = replace(
        written,
        mode=mode,
        model="" if mode == "direct" else entry.model,
        quantum=None if mode != "ladder" else encoded.quantum,
        bytes={layer: len(shard) for layer, shard in sorted(shards.items())},
        places=places_of(entry, shards),
    )
    builder.note(f"images/{note_name(entry.id)}", note_of(written))
    return written


def _at_once(store: Store, act: Callable[[str], _T], names: Iterable[str]) -> dict[str, _T]:
    """What `act` returns for each name; requests of object storage wait side by side."""
    names = list(names)
    if store.is_local:  # a file is there before a thread is
        return {name: act(name) for name in names}
    with ThreadPoolExecutor(len(LAYERS)) as threads:
        return dict(zip(names, threads.map(act, names), strict=True))


def write_indexes(builder: ReleaseBuilder, entries: Iterable[ImageEntry]) -> None:
    """The index of every set."""
    by_set: dict[str, list[ImageEntry]] = {}
    for entry in entries:
        by_set.setdefault(entry.set, []).append(entry)
    for name, members in by_set.items():
        index, details = write_index(members)
        builder.store.write(details_key(name), details)
        builder.store.write(index_key(name), index)
