"""Where shipped and fetched files are, and how files come and go: whole, or not at all."""

import contextlib
import glob
import gzip
import hashlib
import http.client
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
import zlib
from importlib import metadata
from pathlib import Path

CACHE_VARIABLE = "FUSION_CACHE"  # environment: where parsed photographs and fetched files are kept
SUMS = "SHA256SUMS"
UNNAMED = "/OWNER/"  # stands in the repository's address until `make colab` names one
NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


def data_folder() -> Path:
    """The shipped `data/`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def cache_folder() -> Path:
    """Where photographs and fetched files are kept: FUSION_CACHE, else ~/.cache/fusion_lib."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "fusion_lib")


def repository() -> str | None:
    """Address of the project's repository as the installed package states it, or None."""
    try:
        stated = metadata.metadata("fusion_lib").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    address = dict(line.split(", ", 1) for line in stated).get("Repository", UNNAMED)
    return None if UNNAMED in address else address


def data_file(name: str) -> Path:
    """Path of a shipped file whose sha256 is the one that SHA256SUMS lists.

    If that is missing or damaged, of a copy in `cache_folder()`, fetched from the project's
    repository (OSError: see `fetch`). ValueError: SHA256SUMS lists no such file. FileNotFoundError:
    no SHA256SUMS, or no whole copy and no repository to fetch one from.
    """
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
    return fetch(f"{address}/raw/HEAD/data/{name}", cached, sums[name], f"Or {again}")


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


def fetch(url: str, path: Path, expected_sha256: str | None = None, otherwise: str = "") -> Path:
    """Fetch a file; `path` appears only when it is whole.

    What came of an interrupted download is kept in `path` + ".part", where another call goes on. Of
    several processes one fetches; the others wait at `path` + ".lock" and take what it got.

    Args: expected_sha256, None for gzip files, which tell their own end; otherwise, a sentence on
        what else a reader can do, for the messages.
    Raises: OSError, if the address does not answer, or with nothing, a page (HTML, JSON, text), a
        part of the file, or a file of another hash.
    """
    from filelock import FileLock  # the set-up cell imports this module before its needs

    path.parent.mkdir(parents=True, exist_ok=True)
    otherwise = f". {otherwise}" if otherwise else ""
    part, was_there = path.with_name(path.name + ".part"), path.exists()
    with FileLock(f"{path}.lock"):
        if path.exists() and not was_there:
            return path
        try:
            _download(url, part, expected_sha256 is not None, otherwise)
        except NO_ANSWER as error:
            kept = "; what was fetched so far is kept" if part.exists() else ""
            raise OSError(f"{url} does not answer ({error}){otherwise}{kept}") from error
        if expected_sha256 and (found := sha256(part)) != expected_sha256:
            part.unlink()
            raise OSError(f"{url} gave sha256 {found}, not {expected_sha256}; removed{otherwise}")
        os.replace(part, path)
    return path


def _download(url: str, part: Path, hashed: bool, otherwise: str) -> None:
    """Fetch what `part` lacks of the file."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if not have or error.code != 416:
            raise
        part.unlink()  # nothing comes after it: it is whole, or of another file; begin anew
        return _download(url, part, hashed, otherwise)
    with answer:
        start, block = have if answer.status == 206 else 0, answer.read(1 << 20)
        if not start and _is_page(answer.headers.get("Content-Type", ""), block, hashed):
            seen = block.strip()[:60]
            raise OSError(f"{url} answers with {seen!r} instead of the file{otherwise}")
        with open(part, "ab" if start else "wb") as file:
            file.write(block)
            shutil.copyfileobj(answer, file)
        size, stated = part.stat().st_size, answer.headers.get("Content-Length", "")
        stated = stated if stated.isdigit() else ""
        fits, sound = size == start + int(stated or size - start), hashed or _is_whole_gzip(part)
        if not fits or not (sound or stated):
            raise OSError(f"the download stopped at {size} bytes; call again to go on from there")
        if not sound:
            part.unlink()
            raise OSError(f"{url} gave no whole gzip file; removed{otherwise}")


def _is_page(kind: str, block: bytes, hashed: bool) -> bool:
    """Whether a body of this type, which begins so, is empty or a page instead of a file."""
    start = block[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    marked = not start or (start.startswith((b"<", b"{", b"[")) and b"\0" not in start)
    typed = any(word in kind for word in ("html", "json", "xml"))
    return typed or (marked if hashed else not block.startswith(b"\x1f\x8b"))  # of gzip


def _is_whole_gzip(part: Path) -> bool:
    with contextlib.suppress(OSError, EOFError, zlib.error):
        gzip.decompress(part.read_bytes())
        return True
    return False


def write_whole(path: str | Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file beside `path` and move it there: readers see old content or new, never a part.

    Of several writers the last one stays. With `keep`, what was there before is moved to that path.
    What a killed writer left behind is removed by a writer that comes an hour later.

    Raises: OSError, if the file cannot be written; what was there before is unharmed.
    """
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
