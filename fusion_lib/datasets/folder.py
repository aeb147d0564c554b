"""A folder of one's own pictures and masks as a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fusion_lib.datasets.base import SegmentationDataset
from fusion_lib.datasets.decoding import read_mask, read_picture
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions


class FolderDataset(SegmentationDataset):
    """Your own pictures: `images/NAME.jpg|png`, `semantic/NAME.png` and perhaps `regions/NAME.png`.

    Semantic masks hold a class index a pixel, 255 for void. Region masks (8 or 16 bit) hold any id
    a pixel, 0 for void. Without region masks the regions are the connected areas of the semantic
    mask: then the region task adds no information that the semantic labels lack, and a warning
    says so.

    Args:
        root: the folder that holds `images/`.
        classes: names of the classes, in the order of their indices.
        transform: see `transforms`.
        things: names or indices of the classes whose regions are single things; all others are
            stuff. None: unknown.

    Raises:
        FileNotFoundError: no images, or an image without its mask.
        TypeError, ValueError: `things` is no list of classes.
        ValueError: too many classes; a file that `decoding.read_mask` refuses.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        transform: Callable | None = None,
        things: Sequence[str | int] | None = None,
    ):
        self.root, self.classes = Path(root), tuple(classes)
        super().__init__(transform)
        if things is not None:
            self.things, self.stuff = _things_and_stuff(self.classes, things)
        self._images = sorted(
            p for p in self.root.glob("images/*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if not self._images:
            raise FileNotFoundError(
                f"folder {self.root.name!r} holds no images/*.jpg or images/*.png"
            )
        self.has_regions = (self.root / "regions").is_dir()
        for folder in ("semantic", "regions") if self.has_regions else ("semantic",):
            missing = [p.name for p in self._images if not self._mask(folder, p).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{folder}/ lacks the .png mask of {len(missing)} images, first {missing[0]}"
                )
        if not self.has_regions:
            warnings.warn(
                "no regions/ folder: regions are the connected areas of the semantic masks, so the"
                " region task adds no new information",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int):
        path = self._images[index]
        image = read_picture(path)
        semantic = read_mask(self._mask("semantic", path), image, len(self.classes))
        if self.has_regions:
            region = read_mask(self._mask("regions", path), image) - 1
        else:
            region = np.where(semantic == SEMANTIC_VOID, REGION_VOID, semantic)
        return image, semantic, connected_regions(region)

    def _mask(self, folder: str, image: Path) -> Path:
        return self.root / folder / f"{image.stem}.png"


def _things_and_stuff(classes: tuple[str, ...], things: Sequence[str | int]):
    if isinstance(things, str):
        raise TypeError(f"things is {things!r}; expected a list of names or indices")
    indices = range(len(classes))
    known: dict[str | int, int] = dict(zip((*classes, *indices), (*indices, *indices)))
    if strange := [thing for thing in things if thing not in known]:
        raise ValueError(
            f"things holds {strange[0]!r}; expected names or indices of the classes {list(classes)}"
        )
    chosen = {known[thing] for thing in things}
    return tuple(sorted(chosen)), tuple(index for index in indices if index not in chosen)
