"""Image files as arrays: what is damaged or ambiguous is refused, never read as other labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fusion_lib import checks

# One whole number a pixel: of 1 bit, grey of 8 bits, indices into a palette, grey of 16 bits.
MASK_MODES = ("1", "L", "P", "I", "I;16")
GREY_STEPS = {"L;2": 85, "L;4": 17}  # PIL spreads grey values of 2 and 4 bits over 0..255


def existing(files: list[tuple[Path, ...]], root: Path, what: str) -> list[tuple[Path, ...]]:
    """The files of each sample; a FileNotFoundError if there is no sample, or one lacks a file."""
    missing = [path for sample in files for path in sample if not path.is_file()]
    if missing:
        first = "/".join(missing[0].parts[-3:])
        raise FileNotFoundError(f"{len(missing)} files are missing, first {first}")
    if not files:
        raise FileNotFoundError(f"folder {root.name!r} holds no {what}")
    return files


def read_files(files: Sequence[Path], classes: int) -> list[np.ndarray]:
    """A picture, (H, W, 3) uint8, a mask of so many classes, and masks of any numbers.

    A ValueError if one is damaged, or too large for PIL, or a mask that `read_mask` refuses.
    """
    picture, semantic, *others = files
    image = np.asarray(_decode(picture)[0].convert("RGB"))
    return [image, read_mask(semantic, image, classes), *(read_mask(m, image) for m in others)]


def read_mask(path: Path, picture: np.ndarray, classes: int | None = None) -> np.ndarray:
    """A PNG mask of the size of its picture as (H, W) int64.

    With `classes`, a number of them, it may hold 0..classes - 1 and void 255 alone. A ValueError if
    it is damaged, no PNG of one of `MASK_MODES`, of another size or out of range.
    """
    mask, raw_mode = _decode(path)
    name = _name(path)
    if mask.format != "PNG" or mask.mode not in MASK_MODES:
        kind = f"{name} is a {mask.format} file of mode {mask.mode}"
        raise ValueError(f"{kind}; expected one channel: save it as a grey or palette PNG")
    labels = np.asarray(mask).astype(np.int64) // GREY_STEPS.get(raw_mode, 1)
    checks.same_shape(**{name: labels, "its image": picture[..., 0]})
    if classes is not None:
        checks.classes(name, labels, classes)
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
        problem = f"{_name(path)} does not decode as an image ({error})"
        raise ValueError(f"{problem}; replace it by a whole file, or by a smaller one") from error


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
