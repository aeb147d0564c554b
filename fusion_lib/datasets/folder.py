"""A folder of one's own pictures and masks as a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fusion_lib import checks
from fusion_lib.datasets.base import SegmentationDataset
from fusion_lib.datasets.decoding import read_mask, read_picture
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions

NO_REGIONS = "no regions/ folder: connected areas stand in, and the task adds no new information"


class FolderDataset(SegmentationDataset):
    """Your own pictures: `images/NAME.jpg|png`, `semantic/NAME.png` and perhaps `regions/NAME.png`.

    Semantic masks hold a class index a pixel, void 255; region masks (8 or 16 bit) any id, void 0.
    Without region masks the regions are the connected areas of the semantic mask: then the region
    task adds no information, and a warning says so.

    Args:
        root: the folder that holds `images/`.
        classes: their names, in the order of their indices.
        things: names or indices of the classes whose regions are single things; all others are
            stuff. None: unknown.

    Raises:
        FileNotFoundError: no images, or an image without its mask.
        TypeError, ValueError: `things` is no list of classes.
        ValueError: a file that `decoding.read_mask` refuses.
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
            self.things = _indices(self.classes, things)
            self.stuff = tuple(i for i in range(len(self.classes)) if i not in self.things)
        files = sorted(self.root.glob("images/*"))
        self._images = [p for p in files if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
        if not self._images:
            raise FileNotFoundError(f"folder {self.root.name!r} holds no images/*.jpg or *.png")
        self.has_regions = (self.root / "regions").is_dir()
        for folder in ("semantic", "regions") if self.has_regions else ("semantic",):
            missing = [p.name for p in self._images if not self._mask(folder, p).is_file()]
            if missing:
                found = f"{len(missing)} images, first {missing[0]}"
                raise FileNotFoundError(f"{folder}/ lacks the .png mask of {found}")
        if not self.has_regions:
            warnings.warn(NO_REGIONS, stacklevel=2)

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


def _indices(classes: tuple[str, ...], things: Sequence[str | int]) -> tuple[int, ...]:
    if isinstance(things, str):
        raise TypeError(f"things is {things!r}; expected a list of names or indices")
    for thing in things:
        known = thing in classes or thing in range(len(classes))
        checks.expect(known, "one of things", thing, f"a name or index of {list(classes)}")
    return tuple(sorted({classes.index(t) if t in classes else int(t) for t in things}))
