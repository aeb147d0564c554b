"""The Stanford Background photographs, with semantic classes, regions and surfaces."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fusion_lib.datasets.base import SegmentationDataset
from fusion_lib.engine.files import CACHE_VARIABLE, cache_folder, data_folder, fetch
from fusion_lib.scenes import SEMANTIC_VOID

ARCHIVE_VARIABLE = (  # environment: path of iccv09Data.tar.gz or of its unpacked folder
    "FUSION_STANFORD_ARCHIVE"
)


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
    things, stuff = (7,), tuple(range(7))
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


def download_stanford_background() -> Path:
    """Fetch the archive from its official address into the cache; an interrupted download goes on
    where it stopped.

    Raises:
        OSError: the address does not answer, or not with the file; see `files.fetch`.
    """
    path = cache_folder() / "iccv09Data.tar.gz"
    elsewhere = f"Get iccv09Data.tar.gz elsewhere and set {ARCHIVE_VARIABLE} to its path"
    return path if path.is_file() else fetch(StanfordBackground.URL, path, otherwise=elsewhere)


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
