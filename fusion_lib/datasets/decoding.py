"""Image files as arrays: what is damaged or ambiguous is refused, never read as other labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fusion_lib.scenes import SEMANTIC_VOID

# One whole number a pixel: of 1 bit, grey of 8 bits, indices into a palette, grey of 16 bits.
MASK_MODES = ("1", "L", "P", "I", "I;16")
GREY_STEPS = {"L;2": 85, "L;4": 17}  # PIL spreads grey values of 2 and 4 bits over 0..255


def read_picture(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8.

    Raises:
        ValueError: the file does not decode, or is too large for PIL.
    """
    return np.asarray(_decode(path)[0].convert("RGB"))


def read_mask(path: Path, picture: np.ndarray, classes: int | None = None) -> np.ndarray:
    """A PNG mask of the size of its picture as (H, W) int64.

    Args:
        classes: number of classes, if the mask holds them; else any numbers are accepted.

    Raises:
        ValueError: the file does not decode, is no PNG with one whole number a pixel (modes
            `MASK_MODES`), has another size than the picture, or holds a class out of range.
    """
    mask, raw_mode = _decode(path)
    if mask.format != "PNG" or mask.mode not in MASK_MODES:
        raise ValueError(
            f"{_name(path)} is a {mask.format} file of mode {mask.mode}; expected one channel of"
            " whole numbers: save it as a grey or palette PNG of 8 bits, or a grey one of 16 bits"
        )
    labels = np.asarray(mask).astype(np.int64) // GREY_STEPS.get(raw_mode, 1)
    if labels.shape != picture.shape[:2]:
        raise ValueError(
            f"{_name(path)} is {mask.width} x {mask.height} and its image "
            f"{picture.shape[1]} x {picture.shape[0]} pixels; expected equal sizes"
        )
    if classes is not None:
        wrong = labels[(labels >= classes) & (labels != SEMANTIC_VOID)]
        if wrong.size:
            raise ValueError(
                f"{_name(path)} holds class {wrong[0]}; expected 0..{classes - 1} or void 255"
            )
    return labels


def _decode(path: Path) -> tuple[Image.Image, str]:
    """The decoded image, and the mode that its pixels have in the file."""
    try:
        with Image.open(path) as image:
            raw_mode = str(image.tile[0][3]) if image.format == "PNG" else image.mode
            image.verify()  # the sums of a PNG; damaged files may well decode, to other labels
        image = Image.open(path)  # `verify` leaves nothing to be read
        image.load()
        return image, raw_mode
    except Exception as error:  # PIL raises many kinds, some of them no OSError
        raise ValueError(
            f"{_name(path)} does not decode as an image ({error}); replace it by a whole file, or"
            " by a smaller one if it is too large for PIL"
        ) from error


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
