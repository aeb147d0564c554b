"""PASCAL VOC 2012 and Cityscapes, on top of torchvision's classes, which find the files.

Both label objects one by one, and all else by class alone. So a region is an object (if something
cuts it in two, it is the transforms that make two of it), or elsewhere a connected area of a class.
"""

from pathlib import Path

import numpy as np
import torchvision

from fusion_lib import checks
from fusion_lib.datasets.base import SegmentationDataset, Transform
from fusion_lib.datasets.decoding import existing, read_files
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions


def object_regions(objects: np.ndarray, labels: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Objects, positive integers (H, W), and between them the connected areas of equal label,
    non-negative integers (H, W); void (H, W) is bool. Returns (H, W) int64 ids 0..R-1, void -1."""
    region = connected_regions(np.where(void | (objects > 0), REGION_VOID, labels))
    here = (objects > 0) & ~void
    region[here] = region.max(initial=-1) + 1 + np.unique(objects[here], return_inverse=True)[1]
    return region


class PairedFiles(SegmentationDataset):
    """A picture and two masks of its size for each sample, at places that a subclass finds.

    Args: root, the folder of its folders; split, "train" or "val" (labels of "test" are secret).
    Raises: FileNotFoundError, a folder or a file is missing, or there are no pictures at all;
        ValueError, another split, a file that `decoding.read_files` refuses, an unknown label.
    """

    def __init__(self, root: str | Path, split: str, transform: Transform = None):
        super().__init__(transform)
        checks.expect(split in ("train", "val"), "split", split, "'train' or 'val'")
        root = Path(root)
        self.files = existing(self.find(root, split), root, f"picture of split {split!r}")

    def find(self, root: Path, split: str) -> list[tuple[Path, ...]]:
        """Picture, semantic mask and mask of objects of each sample."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.files)


class PascalVOC(PairedFiles):
    """PASCAL VOC 2012, segmentation: 21 classes, 1,464 photographs to train on, 1,449 to validate.

    Void are the borders of objects and what is hard to tell (255 in both masks); regions are void
    where the mask of objects is, and areas of background are those of its 0. `root` holds
    VOCdevkit/; `torchvision.datasets.VOCSegmentation(root, download=True)` fetches it (2 GB).
    """

    _NAMES = (
        "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,"
        " dining table, dog, horse, motorbike, person, potted plant, sheep, sofa, train, tv monitor"
    )
    classes = tuple(_NAMES.split(", "))
    things, stuff = tuple(range(1, 21)), (0,)

    def find(self, root, split):
        lists = f"ImageSets/Segmentation/{split}.txt"
        parts = ("JPEGImages", "SegmentationClass", "SegmentationObject", lists)
        _check_folder(root, [f"VOCdevkit/VOC2012/{part}" for part in parts])
        found = torchvision.datasets.VOCSegmentation(root, year="2012", image_set=split)
        masks = [Path(mask) for mask in found.masks]
        objects = [mask.parents[1] / "SegmentationObject" / mask.name for mask in masks]
        return list(zip(map(Path, found.images), masks, objects))

    def read(self, index: int):
        image, semantic, objects = read_files(self.files[index], len(self.classes))
        void = objects == SEMANTIC_VOID
        return image, semantic, object_regions(objects, np.zeros_like(objects), void)


class Cityscapes(PairedFiles):
    """Cityscapes: 19 classes, 2,975 scenes of 1024 x 2048 pixels to train on, 500 to validate.

    Semantic labels are the train ids, void 255 the labels without one. An instance id of 1000 or
    more is an object (class * 1000 + its number); below, it is a label, and a region is a connected
    area of it, as a crowd of people whom nobody told apart. Regions are void where the label's
    category is "void"; of rare labels, as parking or trailer, only the semantic label is. `root`
    holds leftImg8bit/ and gtFine/, or ..._trainvaltest.zip of both, from cityscapes-dataset.com.
    """

    _LABELS = [label for label in torchvision.datasets.Cityscapes.classes if label.id >= 0]
    _LEARNT = sorted((o.train_id, o.name, o.has_instances) for o in _LABELS if o.train_id < 255)
    classes = tuple(name for _, name, _ in _LEARNT)
    things = tuple(train_id for train_id, _, several in _LEARNT if several)
    stuff = tuple(train_id for train_id, _, several in _LEARNT if not several)

    def find(self, root, split):
        kinds = ("leftImg8bit", "gtFine")
        if not all((root / f"{kind}_trainvaltest.zip").is_file() for kind in kinds):
            _check_folder(root, [f"{kind}/{split}" for kind in kinds])
        found = torchvision.datasets.Cityscapes(root, split, target_type=["semantic", "instance"])
        files = [(Path(p), Path(s), Path(i)) for p, (s, i) in zip(found.images, found.targets)]
        return sorted(one for one in files if one[0].name.endswith("_leftImg8bit.png"))

    def read(self, index: int):
        image, labels, instances = read_files(self.files[index], len(self._LABELS))
        train_ids, void = np.full(256, SEMANTIC_VOID), np.ones(256, bool)
        for label in self._LABELS:
            train_ids[label.id], void[label.id] = label.train_id, label.category == "void"
        objects = np.where(instances >= 1000, instances, 0)
        return image, train_ids[labels], object_regions(objects, labels, void[labels])


def _check_folder(root: Path, expected: list[str]) -> None:
    missing = [part for part in expected if not (root / part).exists()]
    if missing:
        holds = f"root must be the folder that holds {expected[0].split('/')[0]}/"
        raise FileNotFoundError(f"folder {root.name!r} lacks {', '.join(missing)}; {holds}")
