"""Scenes as a data set: the shipped ones, or others drawn with other knobs."""

from functools import cache
from pathlib import Path

import numpy as np

from fusion_lib import checks, scenes
from fusion_lib.datasets.base import SegmentationDataset, Transform
from fusion_lib.engine.files import SUMS, data_file, read_sums, sha256

AGAIN = "write it again with: python -m fusion_lib.scenes FOLDER"


class Scenes(SegmentationDataset):
    """Scenes: 64 x 64 pixels, 8 classes; 400 to train on, 100 to validate, 100 to test.

    Args: split, "train", "val" or "test"; folder, what `python -m fusion_lib.scenes` wrote, else
        the shipped data (`data_file`); knobs of `scenes.sample_scene`, in place of a folder: scenes
        of the same seeds are drawn with them, which takes seconds.
    Raises: ValueError, another split, a folder and knobs, a file of another edition, or of another
        sha256 than SHA256SUMS has; FileNotFoundError, one of the two is not there.
    """

    classes, things, stuff = scenes.CLASSES, scenes.THINGS, scenes.STUFF

    def __init__(
        self, split: str, transform: Transform = None, folder: str | Path | None = None, **knobs
    ):
        super().__init__(transform)
        checks.expect(split in scenes.SPLITS, "split", split, f"one of {list(scenes.SPLITS)}")
        if knobs:
            checks.expect(folder is None, "folder", folder, f"None beside the knobs {[*knobs]}")
            self._maps = _drawn(split, **knobs)
        else:
            name = f"scenes_{split}.npz"
            self._maps = _read(_written(Path(folder) / name) if folder else data_file(name))

    def __len__(self) -> int:
        return len(self._maps[0])

    def read(self, index: int):
        images, semantic, region = self._maps
        return images[index], semantic[index], region[index]


_drawn = cache(scenes.draw_split)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path) as file:
        edition = int(file["edition"]) if "edition" in file else 1
        told = f"{path.name} holds scenes of edition {edition}, expected {scenes.EDITION}"
        others = f"{AGAIN}, or draw others: Scenes(split, edition={edition})"
        checks.require(edition == scenes.EDITION, f"{told}; {others}")
        return file["images"], file["semantic"], file["region"]


def _written(path: Path) -> Path:
    """A file beside the SHA256SUMS that lists it."""
    for file in (path, path.with_name(SUMS)):
        if not file.is_file():
            raise FileNotFoundError(f"{file.name} is not in folder {path.parent.name!r}; {AGAIN}")
    if sha256(path) != read_sums(path.with_name(SUMS)).get(path.name):
        raise ValueError(f"{path.name} does not have the sha256 that {SUMS} lists; {AGAIN}")
    return path
