"""Ways to make a square of a picture of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PIL import Image

Size = tuple[int, int]
"""(width, height) in pixels. Every transform returns a square of `width` x `width`."""
Transform = Callable[[Image.Image, Size], Image.Image]


def adm(picture: Image.Image, size: Size) -> Image.Image:
    """The centre of the picture, as ADM prepared ImageNet (Dhariwal and Nichol 2021).

    Halves the picture with a box filter while its short side is at least twice the resolution, resizes the short side
    to the resolution by bicubic interpolation, then crops the centre.
    """
    resolution = size[0]
    while min(picture.size) >= 2 * resolution:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = resolution / min(picture.size)
    scaled = (round(picture.width * scale), round(picture.height * scale))
    return _centre(picture.resize(scaled, Image.Resampling.BICUBIC), (resolution, resolution))


def center_crop(picture: Image.Image, size: Size) -> Image.Image:
    """The largest central square, resized with Lanczos' filter."""
    side = min(picture.size)
    return _centre(picture, (side, side)).resize(size, Image.Resampling.LANCZOS)


def center_crop_wide(picture: Image.Image, size: Size) -> Image.Image:
    """The largest central part with the proportions of `size`, resized with Lanczos' filter, on a black square.

    The square is `width` pixels wide; the rows above and below the picture are black and equal in number up to one.
    """
    width, height = size
    if picture.width * height >= picture.height * width:
        part = (max(1, round(picture.height * width / height)), picture.height)
    else:
        part = (picture.width, max(1, round(picture.width * height / width)))
    small = _centre(picture, part).resize(size, Image.Resampling.LANCZOS)
    square = Image.new(small.mode, (width, width))
    square.paste(small, (0, (width - height) // 2))
    return square


def scale(picture: Image.Image, size: Size) -> Image.Image:
    """The whole picture, resized with Lanczos' filter. The proportions of one that is not square change."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


TRANSFORMS: Mapping[str, Transform] = {
    "adm": adm,
    "center-crop": center_crop,
    "center-crop-wide": center_crop_wide,
    "scale": scale,
}
"""Transforms by name."""
WIDE = "center-crop-wide"
"""The only transform whose size need not be square."""


def _centre(picture: Image.Image, size: Size) -> Image.Image:
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return picture.crop((left, top, left + size[0], top + size[1]))
