"""Decode any picture that Pillow reads, upright, to grey or RGB of 8 bits."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from phema.shared.datasets.decoding import BROKEN_PICTURE, Unreadable, sentence_of

PHOTOGRAPHS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga"),
)
"""Endings of the names of files that are converted."""
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "TGA")
"""Pillow's decoders of these files. Others, such as EPS, would start programs or are no pictures of pixels."""
MAX_PIXELS = 2**27
"""Pixels of a picture to convert: 134 megapixels, 400 MB decoded."""


def open_photograph(data: bytes, *, upright: bool = True) -> Image.Image:
    """The picture as RGB or grey ("L"); of a file with several pictures, the first. Raises Unreadable.

    `upright` turns and mirrors the picture as its EXIF orientation says. Transparency is dropped, and 16 bits are
    rounded to 8.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are allowed")
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image) if upright and _is_turned(image) else image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("it is no picture of a format that phema converts, or it is broken") from None
    except (*BROKEN_PICTURE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(sentence_of(error)) from error


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that the picture is to be turned. False for EXIF data that cannot be read."""
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except BROKEN_PICTURE:
        return False


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise Unreadable("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):  # Pillow's conversion would cut values above 255 off
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise Unreadable("its pixels have more than 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
