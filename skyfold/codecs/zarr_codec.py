"""How a codec of chunks meets Zarr v3: in threads, so that chunks are coded in parallel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from zarr.abc.codec import ArrayBytesCodec

from skyfold.codecs.chunk import ChunkCodec, codec_class

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer


@dataclass(frozen=True)
class ZarrCodec(ArrayBytesCodec):
    """A codec of chunks as the serializer of an array; Zarr finds it under every name.

    Parameters
    ----------
    codec : ChunkCodec
    """

    codec: ChunkCodec
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Codec of its Zarr metadata."""
        return cls(codec_class(data["name"]).from_dict(data))

    def to_dict(self) -> dict[str, Any]:
        """Zarr metadata of the codec."""
        return self.codec.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before encoding; Zarr asks only codecs of fixed size."""
        name = self.codec.codec_name
        raise NotImplementedError(f"the size of {name} chunks depends on their content")

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        data = self.codec.encode_chunk(chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(data)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        chunk = self.codec.decode_checked(chunk_bytes.to_bytes(), chunk_spec.shape, dtype)
        buffer: type[Any] = chunk_spec.prototype.nd_buffer
        return buffer.from_ndarray_like(chunk)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)
