"""The data sets: shipped scenes, Stanford Background photographs, and a folder of one's own.

Every data set yields samples
    {"image": tv_tensors.Image uint8 (3, H, W), "semantic": tv_tensors.Mask int64 (H, W), void 255,
     "region": tv_tensors.Mask int64 (H, W), void -1}
and passes them through `transform`, if one is given. A data set may have further label maps; they
are as "semantic".
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fusion_lib import scenes
from fusion_lib.files import (
    CACHE_VARIABLE,
    SUMS,
    cache_folder,
    data_file,
    data_folder,
    fetch,
    read_sums,
    sha256,
)
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, connected_regions

ARCHIVE_VARIABLE = (  # environment: path of iccv09Data.tar.gz or of its unpacked folder
    "FUSION_STANFORD_ARCHIVE"
)


class SegmentationDataset(Dataset):
    """Samples of an image, its semantic labels, its region map and any further labels; a subclass
    reads them."""

    classes: tuple[str, ...]
    further_classes: dict[
        str, tuple[str, ...]
    ] = {}  # the further label maps and the names of their classes

    def __init__(self, transform: Callable[[dict], dict] | None = None):
        self.transform = transform

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """image (H, W, 3) uint8, semantic (H, W) with void 255, region (H, W) with void -1."""
        raise NotImplementedError

    def read_further(self, index: int) -> dict[str, np.ndarray]:
        """The label maps that `further_classes` names, each (H, W) with void 255."""
        return {}

    def __getitem__(self, index: int) -> dict:
        image, semantic, region = self.read(index)
        maps = {"semantic": semantic, "region": region, **self.read_further(index)}
        for name, labels in maps.items():
            if not np.issubdtype(labels.dtype, np.integer):
                raise TypeError(f"{name} has dtype {labels.dtype}; expected integers")
            if labels.shape != image.shape[:2]:
                raise ValueError(
                    f"{name} has shape {labels.shape}; expected that of the image,"
                    f" {image.shape[:2]}"
                )
        sample = {"image": tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))}
        sample |= {
            name: tv_tensors.Mask(torch.from_numpy(labels.astype(np.int64)))
            for name, labels in maps.items()
        }
        return sample if self.transform is None else self.transform(sample)


class Scenes(SegmentationDataset):
    """The shipped scenes: 64 x 64 pixels, 8 classes; 400 to train on, 100 to validate, 100 to test.

    Args:
        split: "train", "val" or "test".
        transform: see `transforms`.
        folder: what `python -m fusion_lib.scenes` wrote; default is the shipped data, see
            `files.data_file`.

    Raises:
        ValueError: unknown split, or a file whose sha256 is not the one in SHA256SUMS.
        FileNotFoundError: the file or SHA256SUMS is not there.
    """

    classes = scenes.CLASSES

    def __init__(
        self, split: str, transform: Callable | None = None, folder: str | Path | None = None
    ):
        super().__init__(transform)
        if split not in scenes.SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {list(scenes.SPLITS)}")
        name = f"scenes_{split}.npz"
        path = data_file(name) if folder is None else _written(Path(folder) / name)
        with np.load(path) as arrays:
            self._images, self._semantic, self._region = (
                arrays[k] for k in ("images", "semantic", "region")
            )

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int):
        return self._images[index], self._semantic[index], self._region[index]


class PartlyLabelled(Dataset):
    """Another data set of which only some samples keep their semantic labels; elsewhere all is void
    (255).

    Region maps and further label maps stay.

    Args: dataset, whose samples have been transformed; labelled, the indices that keep theirs.
    """

    def __init__(self, dataset: Dataset, labelled):
        self.dataset, self.labelled = dataset, frozenset(int(index) for index in labelled)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        sample = self.dataset[index]
        if index in self.labelled:
            return sample
        return {**sample, "semantic": torch.full_like(sample["semantic"], SEMANTIC_VOID)}


class StanfordBackground(SegmentationDataset):
    """715 photographs of about 320 x 240 with semantic classes, regions, surfaces (Gould, Fulton &
    Koller, ICCV 2009).

    Samples hold "surfaces" too: whether a pixel is sky, or on a horizontal or a vertical surface;
    void 255.

    The first use parses the archive (about half a minute) and keeps the pixels in `cache_folder()`;
    later uses map that file into memory. The archive is the variable FUSION_STANFORD_ARCHIVE (the
    .tar.gz or its unpacked folder), else what `download_stanford_background` fetched.

    Args:
        split: "train", "val" (the fold after the test fold) or "test".
        fold: 0..4, the test fold.
        transform: see `transforms`.
        archive: instead of the environment variable.

    Raises:
        ValueError: unknown split or fold, or an archive that is cut short, altered or unsafe; it is
            left as it is.
        FileNotFoundError: no archive; says how to get one.
    """

    classes = ("sky", "tree", "road", "grass", "water", "building", "mountain", "foreground object")
    further_classes = {"surfaces": ("sky", "horizontal", "vertical")}
    URL = "http://dags.stanford.edu/data/iccv09Data.tar.gz"
    # Of all that is read. It names the cache too: one that was made when fewer kinds of labels were
    # read is not used.
    CONTENT_SHA256 = "491616e5ca99519f33243af7d7eb526af8c1135761abf42eb4e3e6b01efdcd72"

    def __init__(
        self,
        split: str,
        fold: int = 0,
        transform: Callable | None = None,
        archive: str | Path | None = None,
    ):
        super().__init__(transform)
        if split not in ("train", "val", "test"):
            raise ValueError(f"split is {split!r}; expected 'train', 'val' or 'test'")
        if fold not in range(5):
            raise ValueError(f"fold is {fold!r}; expected 0, 1, 2, 3 or 4")
        with open(data_folder() / "stanford_background_folds.csv", newline="") as file:
            fold_of = {row["image_id"]: int(row["fold"]) for row in csv.DictReader(file)}
        role = {fold: "test", (fold + 1) % 5: "val"}
        cache = cache_folder() / self.cache_name()
        if not (cache / "index.csv").is_file():
            _build_cache(cache, archive, self.CONTENT_SHA256)
        self._pixels = np.load(
            cache / "pixels.npy", mmap_mode="r"
        )  # (P, 6) uint8: colours, semantic, region, surfaces
        with open(cache / "index.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file)]
        self._rows = [row for row in rows if role.get(fold_of[row["image_id"]], "train") == split]
        self.image_ids = [row["image_id"] for row in self._rows]

    @classmethod
    def cache_name(cls) -> str:
        """Name of the cached copy inside `cache_folder()`."""
        return f"stanford_background_{cls.CONTENT_SHA256[:12]}"

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int):
        pixels = self._photograph(index)
        return pixels[..., :3], pixels[..., 3], pixels[..., 4]

    def read_further(self, index: int):
        return {"surfaces": self._photograph(index)[..., 5]}

    def _photograph(self, index: int) -> np.ndarray:
        row = self._rows[index]
        height, width, start = int(row["height"]), int(row["width"]), int(row["start"])
        return self._pixels[start : start + height * width].reshape(height, width, 6)


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

    Raises:
        FileNotFoundError: no images, or an image without its mask.
        ValueError: a file that does not decode, sizes that differ, a class out of range, a mask in
            colour.
    """

    def __init__(
        self, root: str | Path, classes: tuple[str, ...], transform: Callable | None = None
    ):
        super().__init__(transform)
        self.root, self.classes = Path(root), tuple(classes)
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


def download_stanford_background() -> Path:
    """Fetch the archive from its official address into the cache; an interrupted download goes on
    where it stopped.

    Raises:
        OSError: the address does not answer, or not with the file; see `files.fetch`.
    """
    path = cache_folder() / "iccv09Data.tar.gz"
    elsewhere = f"Get iccv09Data.tar.gz elsewhere and set {ARCHIVE_VARIABLE} to its path"
    return path if path.is_file() else fetch(StanfordBackground.URL, path, otherwise=elsewhere)


def _written(path: Path) -> Path:
    """A file beside the SHA256SUMS that lists it."""
    again = "write it again with: python -m fusion_lib.scenes FOLDER"
    for file in (path, path.with_name(SUMS)):
        if not file.is_file():
            raise FileNotFoundError(f"{file.name} is not in folder {path.parent.name!r}; {again}")
    if sha256(path) != read_sums(path.with_name(SUMS)).get(path.name):
        raise ValueError(f"{path.name} does not have the sha256 that {SUMS} lists; {again}")
    return path


def _decode(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{path.parent.name}/{path.name} does not decode as an image ({error})"
        ) from error


def _build_cache(cache: Path, archive: str | Path | None, expected_sha256: str) -> None:
    """Parse every photograph into one array, written beside the cache and renamed when it is
    whole."""
    source = Path(archive or os.environ.get(ARCHIVE_VARIABLE) or download_stanford_background())
    if not source.exists():
        raise FileNotFoundError(
            f"{source.name} does not exist; set {ARCHIVE_VARIABLE} to iccv09Data.tar.gz or to its"
            " unpacked folder"
        )
    files = dict(_read_files(source))
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    if digest.hexdigest() != expected_sha256:
        raise ValueError(
            f"{source.name} does not hold the 715 photographs and labels of the Stanford Background"
            f" Dataset as published (content sha256 {digest.hexdigest()[:12]}..., expected"
            f" {expected_sha256[:12]}...). It was left as it is; move it away and fetch it again,"
            " or check that it is iccv09Data.tar.gz"
        )
    pixels, rows, start = [], ["image_id,height,width,start\n"], 0
    for name in sorted(files):
        if not name.startswith("images/"):
            continue
        image_id = Path(name).stem
        image = np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB"))
        kinds = ("regions", "layers", "surfaces")
        semantic, layers, surfaces = (
            _parse_labels(files[f"labels/{image_id}.{kind}.txt"]) for kind in kinds
        )
        region = np.unique(layers, return_inverse=True)[1].reshape(
            layers.shape
        )  # at most 135 ids: one byte is enough
        semantic, surfaces = (
            np.where(labels < 0, SEMANTIC_VOID, labels) for labels in (semantic, surfaces)
        )
        stacked = np.dstack([image, semantic, region, surfaces])
        pixels.append(stacked.astype(np.uint8).reshape(-1, 6))
        rows.append(f"{image_id},{image.shape[0]},{image.shape[1]},{start}\n")
        start += len(pixels[-1])
    beside = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        np.save(beside / "pixels.npy", np.concatenate(pixels))
        (beside / "index.csv").write_text("".join(rows))
        os.replace(beside, cache)
    except OSError as error:
        if not (
            cache / "index.csv"
        ).is_file():  # else another process was faster; its cache is as good
            raise OSError(
                error.errno,
                f"cannot write {cache.name} ({error.strerror}); free 350 MB or set {CACHE_VARIABLE}"
                " elsewhere",
            ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _parse_labels(text: bytes) -> np.ndarray:
    rows = text.decode("ascii").split("\n")
    return np.array([np.fromstring(row, np.int64, sep=" ") for row in rows if row.strip()])


def _read_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name inside iccv09Data, content) of every photograph and of its three label files."""
    wanted = (".jpg", ".regions.txt", ".layers.txt", ".surfaces.txt")
    if source.is_dir():
        root = source / "iccv09Data" if (source / "iccv09Data").is_dir() else source
        for path in root.glob("*/*"):
            if path.name.endswith(wanted):
                yield path.relative_to(root).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(source, "r:*") as tar:
            for member in tar:
                parts = Path(member.name).parts
                if Path(member.name).is_absolute() or ".." in parts:
                    raise ValueError(
                        f"{source.name} holds a member that points outside: {member.name!r};"
                        " nothing was read"
                    )
                if member.isfile() and member.name.endswith(wanted):
                    yield "/".join(parts[-2:]), tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{source.name} is cut short or no tar archive ({error}). It was left as it is; "
            "move it away and fetch it again"
        ) from error
