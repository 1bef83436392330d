"""How a function from an array to bytes becomes a Zarr v3 codec.

A subclass gives `codec_name`, `encode_chunk` and `decode_chunk`, plain and synchronous; here they
meet Zarr's interface and run in threads, so that chunks are coded in parallel.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from zarr.abc.codec import ArrayBytesCodec

from skyfold.errors import CorruptDataError, SkyfoldError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer


@dataclass(frozen=True)
class ChunkCodec(ArrayBytesCodec):
    """A codec of whole chunks; equality and configuration by fields."""

    codec_name: ClassVar[str]
    is_fixed_size = False

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; the same chunk always gives the same bytes."""
        raise NotImplementedError

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

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before encoding; Zarr asks only codecs of fixed size."""
        raise NotImplementedError(f"the size of {self.codec_name} chunks depends on their content")

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        data = self.encode_chunk(chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(data)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        chunk = self.decode_checked(chunk_bytes.to_bytes(), chunk_spec.shape, dtype)
        buffer: type[Any] = chunk_spec.prototype.nd_buffer
        return buffer.from_ndarray_like(chunk)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)
