"""Where shipped and fetched files are, and how one is fetched: whole and unaltered, or not at
all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

CACHE_VARIABLE = "FUSION_CACHE"  # environment: where parsed photographs and fetched files are kept
SUMS = "SHA256SUMS"
UNNAMED = "/OWNER/"  # stands in the repository's address until `make colab` names one


def data_folder() -> Path:
    """The shipped `data/`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def cache_folder() -> Path:
    """Where parsed photographs and fetched files are kept: the variable FUSION_CACHE, else
    ~/.cache/fusion_lib."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "fusion_lib")


def repository() -> str | None:
    """Address of the project's repository, as the installed package states it; None where none is
    named."""
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
        FileNotFoundError: SHA256SUMS is not there, or there is no whole copy and no repository to
            fetch one from.
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
        fault = (
            f"does not have the sha256 that {SUMS} lists"
            if shipped.is_file()
            else "is not in the data folder"
        )
        raise FileNotFoundError(
            f"{name} {fault}, and pyproject.toml names no repository to fetch it from; {again}"
        )
    return fetch(f"{repository()}/raw/HEAD/data/{name}", cached, sums[name], f"Or {again}")


def read_sums(path: Path) -> dict[str, str]:
    """File names and their sha256 from a file as `sha256sum` writes it."""
    return dict(reversed(line.split()) for line in path.read_text().splitlines())


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(url: str, path: Path, expected_sha256: str | None = None, otherwise: str = "") -> Path:
    """Fetch a file; `path` appears only when it is whole. An interrupted download goes on where it
    stopped.

    Args:
        expected_sha256: hexadecimal digits; None takes what comes, if it is no page.
        otherwise: a sentence on what else a reader can do, for the messages.

    Raises:
        OSError: the address does not answer (no network, no such file), the answer is cut off (what
            came is kept in `path` + ".part", and another call goes on from there), is a page
            instead of the file, or has another hash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            goes_on = answer.status == 206
            block = answer.read(1 << 20)
            if not goes_on and block.lstrip()[:1] == b"<":  # none of our files begins so
                raise OSError(
                    f"{url} answers with a page instead of the file ({block.strip()[:60]!r})."
                    f" {otherwise}"
                )
            with open(part, "ab" if goes_on else "wb") as file:
                while block:
                    file.write(block)
                    block = answer.read(1 << 20)
            length = answer.headers.get("Content-Range", "").rpartition("/")[
                2
            ] or answer.headers.get("Content-Length")
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        if getattr(error, "code", None) != 416:
            raise OSError(
                f"{url} does not answer ({error}). {otherwise}; what was fetched so far is kept"
            ) from error
        if (
            error.headers.get("Content-Range", "") != f"bytes */{have}"
        ):  # the file there is shorter: another one
            part.unlink()
            return fetch(url, path, expected_sha256, otherwise)
        length = str(
            have
        )  # whole: an earlier call was killed between the last byte and the renaming
    if (length or "").isdigit() and part.stat().st_size != int(length):
        raise OSError(
            f"the download stopped at {part.stat().st_size} of {length} bytes; call again to go on"
            " from there"
        )
    if expected_sha256 and (found := sha256(part)) != expected_sha256:
        part.unlink()
        raise OSError(
            f"{url} gave a file with sha256 {found[:12]}..., expected {expected_sha256[:12]}...; it"
            f" was removed. The file there may be of another version. {otherwise}"
        )
    os.replace(part, path)
    return path


def write_whole(path: str | Path, content: bytes, keep: Path | None = None) -> None:
    """Write a file beside `path` and move it there: readers see the old content or the new one,
    never a part.

    With `keep`, what was there before is moved to that path.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(beside, path)
    except OSError as error:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            pass
        raise OSError(
            error.errno,
            f"cannot write {path.name} ({error.strerror}); what was there before is unharmed",
        ) from error
