"""The data sets: scenes, Stanford Background, a folder of one's own, PASCAL VOC and Cityscapes."""

from fusion_lib.datasets.base import PartlyLabelled, SegmentationDataset, attribute
from fusion_lib.datasets.folder import FolderDataset
from fusion_lib.datasets.shipped_scenes import Scenes
from fusion_lib.datasets.stanford import ARCHIVE_VARIABLE, StanfordBackground
from fusion_lib.datasets.voc_and_cityscapes import Cityscapes, PascalVOC
