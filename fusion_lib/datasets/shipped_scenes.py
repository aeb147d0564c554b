"""The shipped scenes as a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fusion_lib import checks, scenes
from fusion_lib.datasets.base import SegmentationDataset
from fusion_lib.engine.files import SUMS, data_file, read_sums, sha256


class Scenes(SegmentationDataset):
    """The shipped scenes: 64 x 64 pixels, 8 classes; 400 to train on, 100 to validate, 100 to test.

    Args: split, "train", "val" or "test"; folder, what `python -m fusion_lib.scenes` wrote, else
        the shipped data (`data_file`).
    Raises: ValueError, another split, or a file whose sha256 is not the one in SHA256SUMS;
        FileNotFoundError, the file or SHA256SUMS is not there.
    """

    classes, things, stuff = scenes.CLASSES, scenes.THINGS, scenes.STUFF

    def __init__(
        self, split: str, transform: Callable | None = None, folder: str | Path | None = None
    ):
        super().__init__(transform)
        checks.expect(split in scenes.SPLITS, "split", split, f"one of {list(scenes.SPLITS)}")
        name = f"scenes_{split}.npz"
        with np.load(data_file(name) if folder is None else _written(Path(folder) / name)) as file:
            self._maps = [file[name] for name in ("images", "semantic", "region")]

    def __len__(self) -> int:
        return len(self._maps[0])

    def read(self, index: int):
        image, semantic, region = (values[index] for values in self._maps)
        return image, semantic, region


def _written(path: Path) -> Path:
    """A file beside the SHA256SUMS that lists it."""
    again = "write it again with: python -m fusion_lib.scenes FOLDER"
    for file in (path, path.with_name(SUMS)):
        if not file.is_file():
            raise FileNotFoundError(f"{file.name} is not in folder {path.parent.name!r}; {again}")
    if sha256(path) != read_sums(path.with_name(SUMS)).get(path.name):
        raise ValueError(f"{path.name} does not have the sha256 that {SUMS} lists; {again}")
    return path
