"""The Stanford Background photographs, with semantic classes, regions and surfaces."""

import hashlib
import io
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from fusion_lib import checks
from fusion_lib.datasets.base import SegmentationDataset, Transform
from fusion_lib.engine.files import CACHE_VARIABLE, cache_folder, data_folder, fetch

ARCHIVE_VARIABLE = "FUSION_STANFORD_ARCHIVE"  # environment: iccv09Data.tar.gz, or its folder
SPLITS = ("train", "val", "test")
READ = (".jpg", ".regions.txt", ".layers.txt", ".surfaces.txt")
LEFT = "It was left as it is; move it away and fetch it again"


class StanfordBackground(SegmentationDataset):
    """715 photographs of about 320 x 240 pixels (Gould, Fulton & Koller, ICCV 2009).

    Samples hold "surfaces" too: whether a pixel is sky, or on a horizontal or a vertical surface;
    void 255. The first use parses the archive (half a minute) and keeps the pixels in
    `cache_folder()`. The environment variable FUSION_STANFORD_ARCHIVE names the .tar.gz or its
    unpacked folder, else `download_stanford_background` fetches it.

    Args: split, "train", "val" (the fold after the test fold) or "test"; fold, 0..4, the test fold.
    Raises: ValueError, another split or fold, or an archive that is cut short or altered, which is
        left; FileNotFoundError, no archive; OSError, no download, or no room for the cache.
    """

    classes = ("sky", "tree", "road", "grass", "water", "building", "mountain", "foreground object")
    things, stuff = (7,), tuple(range(7))
    further_classes = {"surfaces": ("sky", "horizontal", "vertical")}
    URL = "http://dags.stanford.edu/data/iccv09Data.tar.gz"
    # Of all that is read. It names the cache too: one made when less was read is not used.
    CONTENT_SHA256 = "491616e5ca99519f33243af7d7eb526af8c1135761abf42eb4e3e6b01efdcd72"

    def __init__(self, split: str, fold: int = 0, transform: Transform = None):
        super().__init__(transform)
        checks.expect(split in SPLITS, "split", split, f"one of {SPLITS}")
        checks.expect(fold in range(5), "fold", fold, "0, 1, 2, 3 or 4")
        self._cache = cache_folder() / f"stanford_photographs_{self.CONTENT_SHA256[:12]}"
        if not self._cache.is_dir():
            with _lock_of(self._cache):
                _write_cache(self._cache, self.CONTENT_SHA256)
        role = {str(fold): "test", str((fold + 1) % 5): "val"}
        lines = (data_folder() / "stanford_background_folds.csv").read_text().split()[1:]
        folds = [line.split(",") for line in lines]
        self.image_ids = [name for name, own in folds if role.get(own, "train") == split]

    def __len__(self) -> int:
        return len(self.image_ids)

    def read(self, index: int):
        pixels = self._photograph(index)
        return pixels[..., :3], pixels[..., 3], pixels[..., 4]

    def read_further(self, index: int):
        return {"surfaces": self._photograph(index)[..., 5]}

    def _photograph(self, index: int) -> np.ndarray:
        return np.load(self._cache / f"{self.image_ids[index]}.npy")  # as `_parse` returned it


def download_stanford_background() -> Path:
    """Fetch the archive from its official address into the cache, once; raises as `files.fetch`."""
    path = cache_folder() / "iccv09Data.tar.gz"
    elsewhere = f"Get iccv09Data.tar.gz elsewhere and set {ARCHIVE_VARIABLE} to its path"
    return path if path.is_file() else fetch(StanfordBackground.URL, path, elsewhere)


def _read_archive(expected_sha256: str) -> dict[str, bytes]:
    source = Path(os.environ.get(ARCHIVE_VARIABLE) or download_stanford_background())
    if not source.exists():
        advice = f"set {ARCHIVE_VARIABLE} to iccv09Data.tar.gz or to its unpacked folder"
        raise FileNotFoundError(f"{source.name} does not exist; {advice}")
    files = _from_folder(source) if source.is_dir() else _from_tar(source)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    if digest.hexdigest() != expected_sha256:
        problem = f"{source.name} does not hold the 715 photographs and labels as published"
        raise ValueError(f"{problem} (another sha256 of what is read). {LEFT}")
    return files


def _from_folder(source: Path) -> dict[str, bytes]:
    paths = [path for path in source.rglob("*") if path.name.endswith(READ)]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}


def _from_tar(source: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(source, "r:*") as tar:
            for member in tar:
                path = Path(member.name)  # nothing is written there
                wanted = member.isfile() and path.name.endswith(READ)  # a link is no file
                if wanted and (content := tar.extractfile(member)):
                    files[f"{path.parent.name}/{path.name}"] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        problem = f"{source.name} is cut short or no tar archive ({error})"
        raise ValueError(f"{problem}. {LEFT}") from error
    return files


def _lock_of(cache: Path):
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{cache}.lock").acquire()
    except OSError as error:
        raise _cannot_write(cache, error) from error


def _cannot_write(cache: Path, error: OSError) -> OSError:
    advice = f"free 350 MB or set {CACHE_VARIABLE} elsewhere"
    return OSError(error.errno, f"cannot write {cache.name} ({error.strerror}); {advice}")


def _write_cache(cache: Path, expected_sha256: str) -> None:
    """Parse every photograph into a file of its own, in a folder that is named when it is whole."""
    if cache.is_dir():
        return  # another process has written it meanwhile
    files, part = _read_archive(expected_sha256), cache.with_suffix(".part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        for image_id in sorted(Path(name).stem for name in files if name.endswith(".jpg")):
            np.save(part / f"{image_id}.npy", _parse(files, image_id))
        part.rename(cache)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _cannot_write(cache, error) from error


def _parse(files: dict[str, bytes], image_id: str) -> np.ndarray:
    """(H, W, 6) uint8: colours, semantic, region, surfaces."""
    image = np.asarray(Image.open(io.BytesIO(files[f"images/{image_id}.jpg"])).convert("RGB"))
    semantic, layers, surfaces = (
        np.fromstring(files[f"labels/{image_id}{kind}"].decode(), np.int64, sep=" ")
        for kind in READ[1:]
    )
    region = np.unique(layers, return_inverse=True)[1]  # at most 135 ids
    # What is unknown is -1 in the files; as a byte it is 255, void.
    labels = np.stack([semantic, region.ravel(), surfaces], -1).reshape(*image.shape)
    return np.concatenate([image, labels.astype(np.uint8)], -1)
