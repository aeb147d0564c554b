"""A folder of one's own pictures and masks as a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fusion_lib.datasets.base import SegmentationDataset, _decode
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions


class FolderDataset(SegmentationDataset):
    """Your own pictures: `images/NAME.jpg|png`, `semantic/NAME.png`, and if you have them
    `regions/NAME.png`.

    Semantic masks hold a class index a pixel, 255 for void. Region masks (8 or 16 bit) hold any id
    a pixel, 0 for void.
    Without region masks the regions are the connected areas of the semantic mask: then the region
    task
    adds no information that the semantic labels lack, and a warning says so.

    Args:
        root: the folder that holds `images/`.
        classes: names of the classes, in the order of their indices.
        transform: see `transforms`.
        things: names or indices of the classes whose regions are single things; all others are
            stuff. None: unknown.

    Raises:
        FileNotFoundError: no images, or an image without its mask.
        ValueError: things that are no classes; a file that does not decode, sizes that differ, a class out of range, a mask in
            colour.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        transform: Callable | None = None,
        things: Sequence[str | int] | None = None,
    ):
        super().__init__(transform)
        self.root, self.classes = Path(root), tuple(classes)
        if things is not None:
            if isinstance(things, str):
                raise TypeError(f"things is {things!r}; expected a list of names or indices")
            indices = range(len(self.classes))
            numbers = dict(zip((*self.classes, *indices), (*indices, *indices)))
            if strange := [thing for thing in things if thing not in numbers]:
                raise ValueError(
                    f"things holds {strange[0]!r}; expected names or indices of the classes"
                    f" {list(self.classes)}"
                )
            self.things = tuple(sorted({numbers[thing] for thing in things}))
            self.stuff = tuple(index for index in indices if index not in self.things)
        self._images = sorted(
            p for p in self.root.glob("images/*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if not self._images:
            raise FileNotFoundError(
                f"folder {self.root.name!r} holds no images/*.jpg or images/*.png"
            )
        self.has_regions = (self.root / "regions").is_dir()
        for folder in ("semantic", "regions") if self.has_regions else ("semantic",):
            missing = [
                p.name for p in self._images if not (self.root / folder / f"{p.stem}.png").is_file()
            ]
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
        image = np.asarray(_decode(path).convert("RGB"))
        semantic = self._mask("semantic", path, image)
        wrong = semantic[(semantic >= len(self.classes)) & (semantic != SEMANTIC_VOID)]
        if wrong.size:
            raise ValueError(
                f"semantic/{path.stem}.png holds class {wrong[0]}; expected"
                f" 0..{len(self.classes) - 1} or void 255"
            )
        if self.has_regions:
            return image, semantic, connected_regions(self._mask("regions", path, image) - 1)
        return (
            image,
            semantic,
            connected_regions(np.where(semantic == SEMANTIC_VOID, REGION_VOID, semantic)),
        )

    def _mask(self, folder: str, path: Path, image: np.ndarray) -> np.ndarray:
        mask = np.asarray(_decode(self.root / folder / f"{path.stem}.png"))
        if mask.ndim != 2:
            raise ValueError(
                f"{folder}/{path.stem}.png has shape {mask.shape}; expected one channel of indices"
            )
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"{folder}/{path.stem}.png is {mask.shape[1]} x {mask.shape[0]} and its image "
                f"{image.shape[1]} x {image.shape[0]} pixels; expected equal sizes"
            )
        return mask.astype(np.int64)
