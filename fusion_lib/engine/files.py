"""Where shipped and fetched files are, and how files come and go: whole, or not at all."""

import contextlib
import glob
import gzip
import hashlib
import http.client
import os
import threading
import time
import urllib.request
import zlib
from importlib import metadata
from pathlib import Path

CACHE_VARIABLE = "FUSION_CACHE"  # environment: where parsed photographs and fetched files are kept
SUMS = "SHA256SUMS"
UNNAMED = "/OWNER/"  # stands in the repository's address until `make colab` names one


def data_folder() -> Path:
    """The shipped `data/`: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parents[1] / "data"
    return inside if inside.is_dir() else inside.parents[1] / "data"


def cache_folder() -> Path:
    """Where photographs and fetched files are kept: FUSION_CACHE, else ~/.cache/fusion_lib."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "fusion_lib")


def repository() -> str | None:
    """Address of the project's repository as the installed package states it, or None."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        stated = metadata.metadata("fusion_lib").get_all("Project-URL") or []
        address = dict(line.split(", ", 1) for line in stated).get("Repository", UNNAMED)
        return None if UNNAMED in address else address
    return None


def data_file(name: str) -> Path:
    """Path of a shipped file whose sha256 is the one that SHA256SUMS lists (else a ValueError); if
    it is missing or damaged, of a copy in `cache_folder()`, which is fetched from the project's
    repository (see `fetch`). FileNotFoundError: no SHA256SUMS, or no copy and no repository."""
    again = "install fusion_lib again, or work in a clone of the project"
    shipped, cached = data_folder() / name, cache_folder() / "data" / name
    if not shipped.with_name(SUMS).is_file():
        raise FileNotFoundError(f"{SUMS} is not in the data folder of fusion_lib; {again}")
    sums = read_sums(shipped.with_name(SUMS))
    if name not in sums:
        raise ValueError(f"name is {name!r}; expected one of {sorted(sums)}")
    for path in (shipped, cached):
        if path.is_file() and sha256(path) == sums[name]:
            return path
    if (address := repository()) is None:
        fault = "damaged" if shipped.is_file() else "missing"
        raise FileNotFoundError(f"{name} is {fault}, and no repository is named; {again}")
    return fetch(f"{address}/raw/HEAD/data/{name}", cached, f"Or {again}", sums[name])


def read_sums(path: Path) -> dict[str, str]:
    """File names and their sha256 from a file as `sha256sum` writes it."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def write_sums(folder: Path) -> None:
    """Write FOLDER/SHA256SUMS, a line for every data file and checkpoint, as `sha256sum` does."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".safetensors"))
    (folder / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files))


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(url: str, path: Path, otherwise: str, expected_sha256: str | None = None) -> Path:
    """Fetch a file, which is written only if it is whole. Of several processes one fetches; the
    others wait at `path` + ".lock" and take what it got.

    Args: otherwise, a sentence on what else a reader can do; expected_sha256, None for gzip files,
        whose own checksum tells whether they are whole.
    Raises: OSError, the address does not answer, or with a page, with nothing, with a part of the
        file, or with another file; names the address. What was at `path` is unharmed.
    """
    from filelock import FileLock  # the set-up cell imports this module before its needs

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists() and _is_whole(path.read_bytes(), expected_sha256):
            return path
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{url} cannot be fetched ({error}). {otherwise}") from error
        if not _is_whole(content, expected_sha256):
            found = f"{len(content)} bytes, {content[:60]!r}"
            raise OSError(f"{url} answers with {found} instead of the whole file. {otherwise}")
        write_whole(path, content)
    return path


def _is_whole(content: bytes, expected_sha256: str | None) -> bool:
    if expected_sha256:
        return hashlib.sha256(content).hexdigest() == expected_sha256
    with contextlib.suppress(OSError, EOFError, zlib.error):
        return bool(gzip.decompress(content))
    return False


def write_whole(path: str | Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file beside `path` and move it there: readers see old content or new, never a part;
    of several writers the last one stays. With `keep`, what was there before is moved to that path.
    What a killed writer left behind is removed by a writer that comes an hour later. OSError: the
    file cannot be written; what was there before is unharmed."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, keep)
        os.replace(beside, path)
    except OSError as error:
        message = f"cannot write {path.name} ({error.strerror}); what was there before is unharmed"
        raise OSError(error.errno, message) from error
    finally:
        for left in path.parent.glob(f"{glob.escape(path.name)}.[0-9]*.[0-9]*.part"):
            with contextlib.suppress(OSError):  # another writer may remove it, too
                if left == beside or time.time() - left.stat().st_mtime > 3600:
                    left.unlink()
