"""PASCAL VOC 2012 and Cityscapes as this project's data sets, on top of torchvision's classes,
which find the files.

Both label objects one by one, and all else by class alone. So a region is here
- an object: all its pixels, also where something before it cuts it in two (the transforms then make
  two of it);
- elsewhere a connected area of one class: of background, road, sky and so on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision import datasets as torchvision_datasets

from fusion_lib.datasets.base import SegmentationDataset, _decode
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions


def object_regions(objects: np.ndarray, labels: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Objects, and between them the connected areas of equal label.

    Args:
        objects: (H, W) integer, a positive number an object; 0 where there is none.
        labels: (H, W) integer, non-negative.
        void: (H, W) bool.

    Returns:
        (H, W) int64 ids 0..R-1, void -1.
    """
    region = connected_regions(np.where(void | (objects > 0), REGION_VOID, labels))
    here = (objects > 0) & ~void
    region[here] = region.max(initial=-1) + 1 + np.unique(objects[here], return_inverse=True)[1]
    return region


class PairedFiles(SegmentationDataset):
    """A picture and two masks of its size for each sample, at places that a subclass has found.

    Args: files, (picture, semantic mask, mask of objects) of each sample; transform, see
    `transforms`.
    Raises: FileNotFoundError: one of them is not there, or there are none at all.
    """

    def __init__(self, files: list[tuple[Path, Path, Path]], transform):
        super().__init__(transform)
        missing = [path for one in files for path in one if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} files are missing, first {'/'.join(missing[0].parts[-3:])}"
            )
        if not files:
            raise FileNotFoundError("the folders are there, and hold no picture of this split")
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def _read_files(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        picture, *masks = self.files[index]
        image = np.asarray(_decode(picture).convert("RGB"))
        arrays = [np.asarray(_decode(path)) for path in masks]
        for path, mask in zip(masks, arrays):
            if mask.shape != image.shape[:2]:
                raise ValueError(
                    f"{path.parent.name}/{path.name} has shape {mask.shape}; expected one number a"
                    f" pixel, in the shape of its picture, {image.shape[:2]}"
                )
        return image, *(mask.astype(np.int64) for mask in arrays)


class PascalVOC(PairedFiles):
    """PASCAL VOC 2012, segmentation: 21 classes, 1,464 photographs to train on and 1,449 to
    validate.

    Void are the borders of objects and what is hard to tell (255 in both masks); regions are void
    where the mask of objects is. Areas of background are connected areas of its 0.
    `torchvision.datasets.VOCSegmentation(root, download=True)` fetches the files (2 GB). The labels
    of the test photographs are not public.

    Args:
        root: the folder that holds VOCdevkit/.
        split: "train" or "val".
        transform: see `transforms`.

    Raises:
        FileNotFoundError: the folder does not hold VOCdevkit/VOC2012/ with all its parts.
        ValueError: unknown split; a file that does not decode, sizes that differ, a class out of
            range.
    """

    classes = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv monitor",
    )
    things, stuff = tuple(range(1, 21)), (0,)

    def __init__(self, root: str | Path, split: str, transform=None):
        _check_split(split)
        parts = (
            "JPEGImages",
            "SegmentationClass",
            "SegmentationObject",
            f"ImageSets/Segmentation/{split}.txt",
        )
        _check_folder(root, [f"VOCdevkit/VOC2012/{part}" for part in parts])
        found = torchvision_datasets.VOCSegmentation(root, year="2012", image_set=split)
        files = []
        for image, mask in zip(found.images, found.masks):
            objects = Path(mask).parents[1] / "SegmentationObject" / Path(mask).name
            files.append((Path(image), Path(mask), objects))
        super().__init__(files, transform)

    def read(self, index: int):
        image, semantic, objects = self._read_files(index)
        wrong = semantic[(semantic >= len(self.classes)) & (semantic != SEMANTIC_VOID)]
        if wrong.size:
            path = self.files[index][1]
            raise ValueError(
                f"{path.parent.name}/{path.name} holds class {wrong[0]}; expected 0..20 or void 255"
            )
        void = objects == SEMANTIC_VOID
        return (
            image,
            semantic,
            object_regions(np.where(void, 0, objects), np.zeros_like(objects), void),
        )


class Cityscapes(PairedFiles):
    """Cityscapes, finely labelled: 19 classes, 2,975 street scenes of 1024 x 2048 pixels to train
    on, 500 to validate.

    Semantic labels are the train ids, void 255 the labels without one. An instance id of 1000 or
    more is an object (class * 1000 + its number); below, it is a label, and a region is a connected
    area of it (a crowd of people whom nobody told apart is one too). Regions are void where the
    label's category is "void" (unlabelled, the own car, what is static or dynamic and of no class).
    Labels that are merely rare, as parking or trailer, are no class to learn,
    but their outlines are known: there only the semantic label is void.

    The files need an account at cityscapes-dataset.com. If leftImg8bit_trainvaltest.zip and
    gtFine_trainvaltest.zip lie in `root`, torchvision unpacks them. The labels of the test pictures
    are not public.

    Args:
        root: the folder that holds leftImg8bit/ and gtFine/.
        split: "train" or "val".
        transform: see `transforms`.

    Raises:
        FileNotFoundError: the folder does not hold both folders of the split, or a mask is missing.
        ValueError: unknown split; a file that does not decode, sizes that differ, an unknown label.
    """

    _LABELS = [label for label in torchvision_datasets.Cityscapes.classes if label.id >= 0]
    _LEARNT = sorted((o.train_id, o.name, o.has_instances) for o in _LABELS if o.train_id < 19)
    classes = tuple(name for _, name, _ in _LEARNT)
    things = tuple(index for index, _, several in _LEARNT if several)
    stuff = tuple(index for index, _, several in _LEARNT if not several)

    def __init__(self, root: str | Path, split: str, transform=None):
        _check_split(split)
        archives = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
        if not all((Path(root) / archive).is_file() for archive in archives):
            _check_folder(root, [f"leftImg8bit/{split}", f"gtFine/{split}"])
        found = torchvision_datasets.Cityscapes(
            root, split=split, target_type=["semantic", "instance"]
        )
        files = [
            (Path(image), *map(Path, masks)) for image, masks in zip(found.images, found.targets)
        ]
        super().__init__(
            sorted(one for one in files if one[0].name.endswith("_leftImg8bit.png")), transform
        )

    def read(self, index: int):
        image, labels, instances = self._read_files(index)
        known = {label.id for label in self._LABELS}
        if unknown := sorted(set(np.unique(labels).tolist()) - known):
            path = self.files[index][1]
            raise ValueError(
                f"{path.parent.name}/{path.name} holds label {unknown[0]}; expected 0..{max(known)}"
            )
        train_ids, void = np.full(max(known) + 1, SEMANTIC_VOID), np.ones(max(known) + 1, bool)
        for label in self._LABELS:
            train_ids[label.id], void[label.id] = label.train_id, label.category == "void"
        objects = np.where(instances >= 1000, instances, 0)
        return image, train_ids[labels], object_regions(objects, labels, void[labels])


def _check_split(split: str) -> None:
    if split not in ("train", "val"):
        raise ValueError(
            f"split is {split!r}; expected 'train' or 'val' (labels of the test pictures are not"
            " public)"
        )


def _check_folder(root: str | Path, expected: list[str]) -> None:
    missing = [part for part in expected if not (Path(root) / part).exists()]
    if missing:
        raise FileNotFoundError(
            f"folder {Path(root).name!r} lacks {', '.join(missing)}; root must be the folder that"
            f" holds {expected[0].split('/')[0]}/"
        )
