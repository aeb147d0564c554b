"""A folder of one's own pictures and masks as a data set."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusion_lib import checks
from fusion_lib.datasets.base import SegmentationDataset, Transform
from fusion_lib.datasets.decoding import existing, read_files
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions

NO_REGIONS = "no regions/ folder: connected areas stand in, and the task adds no new information"


class FolderDataset(SegmentationDataset):
    """Your own pictures: `images/NAME.jpg|png`, `semantic/NAME.png` and perhaps `regions/NAME.png`.

    Semantic masks hold a class index a pixel, void 255; region masks (8 or 16 bit) any id, void 0.
    Without region masks the regions are the connected areas of the semantic mask: then the region
    task adds no information, and a warning says so.

    Args: root, the folder that holds `images/`; classes, their names in the order of their indices;
        things, names or indices of those whose regions are single things, all others being stuff.
    Raises: FileNotFoundError, no images, or an image without its mask; TypeError or ValueError,
        `things` is no list of classes; ValueError, a file that `decoding.read_files` refuses.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        transform: Transform = None,
        things: Sequence[str | int] | None = None,
    ):
        self.root, self.classes = Path(root), tuple(classes)
        super().__init__(transform)
        if things is not None:
            self.things = _indices(self.classes, things)
            self.stuff = tuple(i for i in range(len(self.classes)) if i not in self.things)
        self.has_regions = (self.root / "regions").is_dir()
        kinds = ("semantic", "regions") if self.has_regions else ("semantic",)
        found = sorted(self.root.glob("images/*"))
        images = [path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        masks = [[self.root / kind / f"{path.stem}.png" for kind in kinds] for path in images]
        files = [(path, *own) for path, own in zip(images, masks)]
        self.files = existing(files, self.root, "images/*.jpg or images/*.png")
        if not self.has_regions:
            warnings.warn(NO_REGIONS, stacklevel=2)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int):
        image, semantic, *regions = read_files(self.files[index], len(self.classes))
        areas = np.where(semantic == SEMANTIC_VOID, REGION_VOID, semantic)
        return image, semantic, connected_regions(regions[0] - 1 if regions else areas)


def _indices(classes: tuple[str, ...], things: Sequence[str | int]) -> tuple[int, ...]:
    if isinstance(things, str):
        raise TypeError(f"things is {things!r}; expected a list of names or indices")
    for thing in things:
        known = thing in classes or thing in range(len(classes))
        checks.expect(known, "one of things", thing, f"a name or index of {list(classes)}")
    return tuple(sorted({classes.index(t) if t in classes else int(t) for t in things}))
