"""The codecs that skyfold is compared with, each at its own best way of taking an image.

What this module knows is how to be fair to them: lossy ones that have no notion of noise get
pixels whose unit is the noise (so that no result depends on an image's scale), a range of settings
from finer than `bounded` to coarser than `latent`, and are charged only for data, not for FITS
headers. JPEG XL, whose steps grow with brightness, is given floats at two scales: faint sources
cost it least at the larger, bright ones at the smaller. Lossless ones get the stored array.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tests.benchmarks.images import Subject

Setting = Any
FINE = 16  # steps of JPEG 2000's integers in one noise unit
RMS = (0.1, 0.14, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # asked of JPEG 2000 [noise units]
JXL = (  # distance, and noise as a share of full scale
    *((d, 1 / 32) for d in (0.1, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)),
    *((d, 1 / 4096) for d in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)),
)
BOUNDS = (0.125, 0.2, 0.25, 0.35, 0.5, 1.0, 2.0, 4.0)  # of SZ3 [noise units]
TOLERANCES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # ZFP keeps well within them
LEVELS = (4.0, 2.83, 2.4, 2.0, 1.7, 1.41, 1.0, 0.5, 0.25)  # q of CFITSIO
HCOMPRESS = (*((q, 0) for q in (4.0, 2.4, 2.0, 1.7, 1.0)), *((4.0, s) for s in (4, 8, 16)))


@dataclass(frozen=True)
class Peer:
    """A codec.

    Attributes
    ----------
    settings : tuple
        What it is tried at.
    encode : callable
        (subject, setting) -> bytes.
    decode : callable
        (bytes, subject, setting) -> pixels in stored units, shape of the image. Of the subject it
        may use only level, sigma, shape and dtype: numbers that any header holds.
    size : callable
        Bytes that count.
    suits : callable
        Whether it takes images of a dtype.
    """

    name: str
    settings: tuple[Setting, ...]
    encode: Callable[[Subject, Setting], bytes]
    decode: Callable[[bytes, Subject, Setting], NDArray[Any]]
    size: Callable[[bytes], int] = len
    suits: Callable[[np.dtype[Any]], bool] = lambda dtype: True


def peers() -> list[Peer]:
    """Every codec that needs no training."""
    lossy = [
        Peer("RICE_1", LEVELS, _rice, _open_fits, _table_bytes),
        Peer("HCOMPRESS_1", HCOMPRESS, _hcompress, _open_fits, _table_bytes),
        Peer("JPEG XL", JXL, _jxl, _from_jxl),
        Peer("JPEG 2000", RMS, _jpeg2000, _from_jpeg2000),
        Peer("ZFP", TOLERANCES, _zfp, _from_zfp),
        Peer("SZ3", BOUNDS, _sz3, _from_sz3),
    ]
    lossless = [
        Peer("RICE_1", ("lossless",), _fits_lossless, _open_fits, _table_bytes, _is_integer),
        Peer("HCOMPRESS_1", ("lossless",), _fits_hcompress, _open_fits, _table_bytes, _is_integer),
        Peer("GZIP_2", ("lossless",), _fits_gzip, _open_fits, _table_bytes),
        Peer("JPEG XL", ("lossless",), _jxl_lossless, _from_jxl_lossless, suits=_jxl_takes),
        Peer("JPEG 2000", ("lossless",), _j2k_lossless, _from_j2k_lossless, suits=_is_16_bit),
        Peer("pcodec", ("lossless",), _pcodec, _from_pcodec),
        Peer("zstd", ("lossless",), _zstd, _from_zstd),
    ]
    return lossless + lossy


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu"


def _is_16_bit(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= 2


def _jxl_takes(dtype: np.dtype[Any]) -> bool:
    return _is_16_bit(dtype) or dtype == np.float32


def noise_units(subject: Subject) -> NDArray[np.float32]:
    """Pixels less the sky, over its noise; the sky where bad."""
    y = (subject.raw - subject.level) / subject.sigma
    return np.where(subject.context.mask, 0, y).astype(np.float32)


def _stored_units(y: NDArray[Any], subject: Subject) -> NDArray[np.float64]:
    return y.astype(np.float64) * subject.sigma + subject.level


# FITS tile compression, as CFITSIO's and astropy's readers share it.


def _fits(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdu = fits.CompImageHDU(pixels, compression_type=kind, **options)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    return file.getvalue()


def _dithered(subject: Subject, kind: str, q: float, **options: Any) -> bytes:
    method = fits.hdu.compressed.SUBTRACTIVE_DITHER_1
    pixels = np.where(subject.context.mask, subject.level, subject.raw)
    pixels = ((pixels - subject.level) / subject.sigma).astype(np.float32)
    return _fits(pixels, kind, quantize_level=q, quantize_method=method, dither_seed=1, **options)


def _rice(subject: Subject, q: Setting) -> bytes:
    return _dithered(subject, "RICE_1", q)


def _hcompress(subject: Subject, setting: Setting) -> bytes:
    q, scale = setting
    rows, columns = subject.raw.shape
    tile = (math.ceil(rows / math.ceil(rows / 256)), columns)  # no last tile of a row or two
    return _dithered(subject, "HCOMPRESS_1", q, hcomp_scale=scale, tile_shape=tile)


def _fits_lossless(subject: Subject, _: Setting) -> bytes:
    return _fits(subject.stored, "RICE_1")


def _fits_hcompress(subject: Subject, _: Setting) -> bytes:
    return _fits(subject.stored, "HCOMPRESS_1", hcomp_scale=0)


def _fits_gzip(subject: Subject, _: Setting) -> bytes:
    return _fits(subject.stored, "GZIP_2", quantize_level=0)


def _open_fits(data: bytes, subject: Subject, setting: Setting) -> NDArray[Any]:
    with fits.open(io.BytesIO(data)) as hdus:
        pixels = np.array(hdus[1].data)
    return pixels if setting == "lossless" else _stored_units(pixels, subject)


def _table_bytes(data: bytes) -> int:
    """Table and heap, without headers and without padding to 2880 bytes."""
    with fits.open(io.BytesIO(data), disable_image_compression=True) as hdus:
        header = hdus[1].header
        return int(header["NAXIS1"] * header["NAXIS2"] + header["PCOUNT"])


# JPEG XL and JPEG 2000.


def _jxl(subject: Subject, setting: Setting) -> bytes:
    distance, scale = setting
    y = noise_units(subject)
    lowest = np.float32(math.floor(float(y.min())))
    pixels = (y - lowest) * np.float32(scale)
    data = imagecodecs.jpegxl_encode(pixels, distance=distance, effort=7, numthreads=1)
    return bytes(lowest.tobytes() + data)


def _from_jxl(data: bytes, subject: Subject, setting: Setting) -> NDArray[Any]:
    lowest = np.frombuffer(data[:4], np.float32)[0]
    pixels = imagecodecs.jpegxl_decode(data[4:], numthreads=1)
    return _stored_units(pixels.reshape(subject.raw.shape) / setting[1] + lowest, subject)


def _jpeg2000(subject: Subject, rms: Setting) -> bytes:
    y = noise_units(subject)
    lowest, span = float(y.min()), float(np.ptp(y))
    fine = min(FINE, 2**24 / span)  # OpenJPEG holds 26 bits at most
    bits = max(math.ceil(math.log2(span * fine + 1)), 9)
    pixels = np.rint((y - lowest) * fine).astype(np.uint16 if bits <= 16 else np.uint32)
    psnr = 20 * math.log10((2**bits - 1) / (fine * rms))
    options: dict[str, Any] = {"level": psnr, "reversible": False, "bitspersample": bits}
    data = imagecodecs.jpeg2k_encode(pixels, numthreads=1, **options)
    return np.array([lowest, fine], np.float32).tobytes() + bytes(data)


def _from_jpeg2000(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    lowest, fine = np.frombuffer(data[:8], np.float32)
    pixels = imagecodecs.jpeg2k_decode(data[8:], numthreads=1)
    return _stored_units(pixels / float(fine) + float(lowest), subject)


def _shifted(stored: NDArray[Any]) -> NDArray[Any]:
    """Integers of 16 bits as unsigned ones of the same order."""
    if stored.dtype.kind == "u":
        return stored
    unsigned = stored.view(f"u{stored.dtype.itemsize}")
    return unsigned ^ unsigned.dtype.type(1 << (8 * stored.dtype.itemsize - 1))


def _unshifted(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "u":
        return pixels
    return (pixels ^ pixels.dtype.type(1 << (8 * dtype.itemsize - 1))).view(dtype)


def _jxl_lossless(subject: Subject, _: Setting) -> bytes:
    pixels = subject.stored if subject.stored.dtype.kind == "f" else _shifted(subject.stored)
    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=7, numthreads=1))


def _from_jxl_lossless(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    pixels = imagecodecs.jpegxl_decode(data, numthreads=1).reshape(subject.raw.shape)
    dtype = subject.stored.dtype
    return pixels if dtype.kind == "f" else _unshifted(pixels, dtype)


def _j2k_lossless(subject: Subject, _: Setting) -> bytes:
    pixels = _shifted(subject.stored)
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, numthreads=1))


def _from_j2k_lossless(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    return _unshifted(imagecodecs.jpeg2k_decode(data, numthreads=1), subject.stored.dtype)


# Numeric codecs.


def _sz3(subject: Subject, bound: Setting) -> bytes:
    return bytes(imagecodecs.sz3_encode(noise_units(subject), mode="abs", abs=bound))


def _from_sz3(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    y = imagecodecs.sz3_decode(data, shape=subject.raw.shape, dtype="f4")
    return _stored_units(y, subject)


def _zfp(subject: Subject, tolerance: Setting) -> bytes:
    return bytes(imagecodecs.zfp_encode(noise_units(subject), mode="a", level=tolerance))


def _from_zfp(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    return _stored_units(imagecodecs.zfp_decode(data), subject)


def _pcodec(subject: Subject, _: Setting) -> bytes:
    return bytes(imagecodecs.pcodec_encode(subject.stored, level=8))


def _from_pcodec(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    stored = subject.stored
    return np.asarray(imagecodecs.pcodec_decode(data, shape=stored.shape, dtype=stored.dtype))


def _zstd(subject: Subject, _: Setting) -> bytes:
    shuffled = np.asarray(imagecodecs.bitshuffle_encode(subject.stored))
    return bytes(imagecodecs.zstd_encode(shuffled.tobytes(), level=19))


def _from_zstd(data: bytes, subject: Subject, _: Setting) -> NDArray[Any]:
    plain = np.frombuffer(imagecodecs.zstd_decode(data), subject.stored.dtype)
    return np.asarray(imagecodecs.bitshuffle_decode(plain)).reshape(subject.stored.shape)
