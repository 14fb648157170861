"""Decode one picture or latent from bytes to an array. Sizes are checked before anything large is allocated."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Encoding = Literal["pictures", "latents"]
LATENT_CHANNELS = 4
MAX_RESOLUTION = 4096
"""Pixels per side of a picture in a dataset."""

_LATENT_SHIFT = np.array([5.81, 3.25, 0.12, -2.15], np.float32)[:, None, None]
_LATENT_SCALE = (np.float32(0.5) / np.array([4.17, 4.62, 3.71, 3.28], np.float32))[:, None, None]

_CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3, "CMYK": 3, "YCbCr": 3}
"""Pillow modes that convert to grey or RGB without loss, or with no more loss than JPEG has; and their channels."""
BROKEN_PICTURE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    struct.error,
    zlib.error,
)
"""Exceptions that Pillow's decoders raise on bytes that are not a picture."""

_ONE_PARSER = threading.Lock()
"""NumPy parses the header of an NPY file as Python. Two threads that do so at once make Python 3.11 raise
SystemError now and then, because they share one count of the parser's depth (CPython issue 106905)."""


class Unreadable(ValueError):
    """The bytes are not a valid picture or latent. The message completes the sentence "… cannot be read: "."""


@dataclass(frozen=True)
class PictureFormat:
    """Format that all pictures of a dataset share. `channels` and `resolution` are those of the network's input."""

    encoding: Encoding
    channels: int
    resolution: int

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Shape of the array that `decode` returns. Latents have a mean and a standard deviation per channel."""
        planes = 2 if self.encoding == "latents" else 1
        return (planes * self.channels, self.resolution, self.resolution)

    @property
    def stored_bytes(self) -> int:
        return int(np.prod(self.stored_shape)) * (4 if self.encoding == "latents" else 1)

    def __str__(self) -> str:
        kind = "latents" if self.encoding == "latents" else {1: "grey", 3: "RGB"}[self.channels]
        return f"{self.resolution}x{self.resolution} {kind}"


def detect_format(data: bytes, *, is_array: bool) -> PictureFormat:
    """Format of this picture, which all pictures of its dataset must have. Raises Unreadable."""
    if is_array:
        shape, dtype = _array_header(data)[:2]
        format = _array_format(shape, dtype)
    else:
        with _opened(data) as image:
            format = _picture_format(image)
    if format.resolution > MAX_RESOLUTION:
        raise Unreadable(f"it has {format.resolution} pixels a side; at most {MAX_RESOLUTION} are allowed")
    return format


def decode(data: bytes, format: PictureFormat, *, is_array: bool) -> NDArray[np.uint8] | NDArray[np.float32]:
    """A picture as uint8 [C, H, W], or a latent as float32 [8, h, w]: four means, then four standard deviations.

    Raises Unreadable for broken bytes or another format, before anything of another size is decoded.
    """
    if is_array:
        shape, dtype, start = _array_header(data)
        _check_format(_array_format(shape, dtype), format)
        array = np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
        if format.encoding == "latents":
            _check_latent(array)
        return array
    with _opened(data) as image:
        _check_format(_picture_format(image), format)
        try:
            pixels = np.asarray(
                image if image.mode in ("L", "RGB") else image.convert("L" if format.channels == 1 else "RGB")
            )
        except BROKEN_PICTURE as error:
            raise Unreadable(sentence_of(error)) from error
    return pixels[None] if format.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def pixels_to_network(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """x / 127.5 - 1, float32 of the same shape."""
    scaled = stored.astype(np.float32)
    scaled /= np.float32(127.5)
    scaled -= np.float32(1)
    return scaled


def latent_to_network(stored: NDArray[np.float32], seed: int | None) -> NDArray[np.float32]:
    """[8, h, w] -> [4, h, w]: mean + std * eps, `normalized`, with eps drawn from `seed`; the mean if it is None."""
    mean, std = stored[:LATENT_CHANNELS], stored[LATENT_CHANNELS:]
    if seed is None:
        return normalized(mean)
    # RandomState's stream is frozen by NumPy's policy; Generator's is not.
    random = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    return normalized(mean + std * random.standard_normal(mean.shape).astype(np.float32))


def normalized(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Latents [..., 4, h, w] of the VAE, scaled for the network to mean 0 and standard deviation 0.5 over ImageNet."""
    return (latents - _LATENT_SHIFT) * _LATENT_SCALE


def denormalized(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `normalized`."""
    return latents / _LATENT_SCALE + _LATENT_SHIFT


def _opened(data: bytes) -> Image.Image:
    """The picture with its header read."""
    try:
        return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:
        raise Unreadable("it is neither PNG nor JPEG") from None
    except (*BROKEN_PICTURE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(sentence_of(error)) from error


def _picture_format(image: Image.Image) -> PictureFormat:
    transparent = " with transparency" if "transparency" in image.info else ""
    if image.mode not in _CHANNELS or transparent:
        raise Unreadable(
            f"its pixels are {image.mode}{transparent}; grey and RGB of 8 bits are read, "
            "and `phema dataset convert` makes them"
        )
    if image.width != image.height:
        raise Unreadable(
            f"it is {image.width} x {image.height}, not square; `phema dataset convert` crops pictures to squares"
        )
    return PictureFormat("pictures", _CHANNELS[image.mode], image.width)


def _array_format(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> PictureFormat:
    if len(shape) == 3 and shape[1] == shape[2] > 0:
        if dtype == np.float32 and shape[0] == 2 * LATENT_CHANNELS:
            return PictureFormat("latents", LATENT_CHANNELS, shape[1])
        if dtype == np.uint8 and shape[0] in (1, 3):
            return PictureFormat("pictures", shape[0], shape[1])
    raise Unreadable(
        f"it holds {dtype} {list(shape)}; latents are float32 [8, h, h] (means, then standard deviations), "
        "pictures uint8 [1 or 3, h, h]"
    )


def _array_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Shape, dtype and offset of the values of an NPY file of the right length. Nothing is unpickled."""
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with _ONE_PARSER:
            shape, fortran, dtype = read(file)
    except KeyError:
        raise Unreadable("its NPY version is not 1 or 2") from None
    except (ValueError, SyntaxError, EOFError, TypeError, struct.error, MemoryError, RecursionError) as error:
        raise Unreadable(f"it is no NPY file ({sentence_of(error)})") from error
    if fortran or dtype.hasobject:
        raise Unreadable("its values must be plain numbers in C order")
    start, expected = file.tell(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(data) - start != expected:
        raise Unreadable(f"it holds {len(data) - start} bytes of values, but its header announces {expected}")
    return shape, dtype, start


def _check_latent(array: NDArray[np.generic]) -> None:
    values = array.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise Unreadable("it holds values that are not finite")
    if values[LATENT_CHANNELS:].min() < 0:
        raise Unreadable("its last four channels are standard deviations and must not be negative")


def _check_format(found: PictureFormat, wanted: PictureFormat) -> None:
    if found != wanted:
        raise Unreadable(f"it is {found}, while the dataset's first picture is {wanted}; all must be alike")


def sentence_of(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
