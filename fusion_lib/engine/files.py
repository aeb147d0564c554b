"""Where shipped and fetched files are, and how files come and go: whole, or not at all."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import http.client
import os
import re
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from importlib import metadata
from pathlib import Path

from safetensors import SafetensorError, safe_open

CACHE_VARIABLE = "FUSION_CACHE"  # environment: where parsed photographs and fetched files are kept
SUMS = "SHA256SUMS"
UNNAMED = "/OWNER/"  # stands in the repository's address until `make colab` names one
NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
PAGES = re.compile(r"text/html|application/([\w.-]+\+)?(json|xml)\b")  # types of error pages


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

    The shipped file itself, nearly always. If it is missing or damaged, a copy in `cache_folder()`,
    which is fetched from the project's repository the first time.

    Raises:
        ValueError: SHA256SUMS lists no such file.
        FileNotFoundError: no SHA256SUMS, or no whole copy and no repository to fetch one from.
        OSError: see `fetch`.
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
    if repository() is None:
        damaged = f"does not have the sha256 that {SUMS} lists"
        raise FileNotFoundError(
            f"{name} {damaged if shipped.is_file() else 'is not in the data folder'}, and"
            f" pyproject.toml names no repository to fetch it from; {again}"
        )
    return fetch(f"{repository()}/raw/HEAD/data/{name}", cached, sums[name], f"Or {again}")


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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(url: str, path: Path, expected_sha256: str | None = None, otherwise: str = "") -> Path:
    """Fetch a file; `path` appears only when it is whole.

    What came of an interrupted download is kept in `path` + ".part"; another call goes on there.

    Args:
        expected_sha256: hexadecimal digits. None takes what is no page and whole: as long as the
            server says, or where it says nothing, a .gz, .zip, .npz or .safetensors that ends.
        otherwise: a sentence on what else a reader can do, for the messages.

    Raises:
        OSError: the address does not answer (no network, no such file), the answer is cut off, is
            empty, a page (HTML, JSON, text) instead of the file, or has another hash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            goes_on, block = answer.status == 206, answer.read(1 << 20)
            if not goes_on and not block:
                raise OSError(f"{url} answers with an empty file. {otherwise}")
            kind = answer.headers.get("Content-Type", "")
            if not goes_on and _is_page(kind, block, hashed=expected_sha256 is not None):
                raise OSError(
                    f"{url} answers with a page instead of the file ({block.strip()[:60]!r})."
                    f" {otherwise}"
                )
            with open(part, "ab" if goes_on else "wb") as file:
                while block:
                    file.write(block)
                    block = answer.read(1 << 20)
            length = answer.headers.get("Content-Range", "").rpartition("/")[2]
            length = length or answer.headers.get("Content-Length", "")
    except NO_ANSWER as error:
        if not (have and isinstance(error, urllib.error.HTTPError) and error.code == 416):
            raise OSError(
                f"{url} does not answer ({error}). {otherwise}; what was fetched so far is kept"
            ) from error
        if error.headers.get("Content-Range", "") != f"bytes */{have}":
            part.unlink()  # what is there now is shorter: another file
            return fetch(url, path, expected_sha256, otherwise)
        length = str(have)  # whole: an earlier call was killed between last byte and renaming
    size = part.stat().st_size
    if length.isdigit():
        whole = size == int(length)
    else:
        whole, length = bool(expected_sha256) or _ends(part, path.suffix), "an unknown number of"
    if not whole:
        raise OSError(
            f"the download stopped at {size} of {length} bytes; call again to go on from there"
        )
    if expected_sha256 and (found := sha256(part)) != expected_sha256:
        part.unlink()
        raise OSError(
            f"{url} gave a file with sha256 {found[:12]}..., expected {expected_sha256[:12]}...; it"
            f" was removed. The file there may be of another version. {otherwise}"
        )
    os.replace(part, path)
    return path


def _is_page(kind: str, block: bytes, hashed: bool) -> bool:
    """Whether a body of this type, which begins so, is a page; without a hash, any text is one."""
    if PAGES.match(kind) or (kind.startswith("text/") and not hashed):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(block[:1000])
    except UnicodeDecodeError:
        return False
    readable = all(letter.isprintable() or letter.isspace() for letter in text)
    return readable and (not hashed or text.lstrip()[:1] in ("<", "{", "["))


def _ends(part: Path, suffix: str) -> bool:
    """Whether a file of a kind that tells its own end has come to it."""
    if suffix in (".npz", ".zip"):
        return zipfile.is_zipfile(part)
    with contextlib.suppress(OSError, EOFError, zlib.error, SafetensorError):
        if suffix == ".safetensors":
            with safe_open(part, "np"):
                return True
        with gzip.open(part) as file:
            while file.read(1 << 20):
                pass
        return True
    return False


def write_whole(path: str | Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file beside `path` and move it there: readers see old content or new, never a part.

    Writers in several processes or threads do not disturb each other: the last one stays. With
    `keep`, what was there before is moved to that path.

    Raises:
        OSError: the file cannot be written; what was there before is unharmed.
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
        with contextlib.suppress(OSError):
            beside.unlink()
        raise OSError(
            error.errno,
            f"cannot write {path.name} ({error.strerror}); what was there before is unharmed",
        ) from error
