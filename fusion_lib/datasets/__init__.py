"""The data sets: shipped scenes, Stanford Background photographs, a folder of one's own, PASCAL VOC
and Cityscapes."""

from fusion_lib.datasets.base import PartlyLabelled, SegmentationDataset, attribute
from fusion_lib.datasets.folder import FolderDataset
from fusion_lib.datasets.shipped_scenes import Scenes
from fusion_lib.datasets.stanford import (
    ARCHIVE_VARIABLE,
    StanfordBackground,
    download_stanford_background,
)
from fusion_lib.datasets.voc_and_cityscapes import Cityscapes, PascalVOC

__all__ = [
    "ARCHIVE_VARIABLE",
    "Cityscapes",
    "FolderDataset",
    "PartlyLabelled",
    "PascalVOC",
    "Scenes",
    "SegmentationDataset",
    "StanfordBackground",
    "attribute",
    "download_stanford_background",
]
