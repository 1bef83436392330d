"""How an array becomes bytes, and how a codec is found by the name of its bytes.

A subclass gives `codec_name`, `encode_chunk` and `decode_chunk`, plain and synchronous. What reads
images needs no more; `skyfold.codecs.zarr_codec` makes Zarr codecs of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Self

from skyfold.errors import CorruptDataError, SkyfoldError, UnknownCodecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

GROUP = "skyfold.codecs"


@dataclass(frozen=True)
class ChunkCodec:
    """A codec of whole chunks; equality and configuration by fields."""

    codec_name: ClassVar[str]

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; the same chunk always gives the same bytes."""
        raise NotImplementedError

    def encode_chunks(self, chunks: Sequence[NDArray[Any]]) -> list[bytes]:
        """Bytes of each of several chunks of one shape, as `encode_chunk` gives them."""
        return [self.encode_chunk(chunk) for chunk in chunks]

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype; raises `CorruptDataError` if `data` holds another."""
        raise NotImplementedError

    def decode_checked(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """`decode_chunk`, whose every failure on strange bytes is a CorruptDataError."""
        try:
            return self.decode_chunk(data, shape, dtype)
        except SkyfoldError:
            raise
        except Exception as error:  # of several libraries, each with errors of its own
            raise CorruptDataError(
                f"{self.codec_name} chunk of shape {shape} cannot be decoded: {error!r}"
            ) from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Codec of its Zarr metadata."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """Zarr metadata of the codec."""
        configuration = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"name": self.codec_name, "configuration": configuration}


@cache
def codec_class(name: str) -> type[ChunkCodec]:
    """Class of a codec by its name, as the installed packages declare it.

    Raises
    ------
    UnknownCodecError
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise UnknownCodecError(f"codec {name!r} is none of this version; upgrade skyfold")
    loaded: type[ChunkCodec] = found[name].load()
    return loaded
