"""Shipped files: the whole one is used, a missing or damaged one fetched, and nothing but the right
bytes is kept."""

import hashlib
import shutil

import pytest
from servers import server

from fusion_lib import datasets
from fusion_lib.engine import files

CONTENT = b"the file as it was published\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def shipped(tmp_path, cache, monkeypatch):
    """A data folder with one file, `a.npz`, an empty cache, and no repository."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.npz").write_bytes(CONTENT)
    (folder / "SHA256SUMS").write_text(f"{SHA256}  a.npz\n")
    monkeypatch.setattr(files, "data_folder", lambda: folder)
    monkeypatch.setattr(files, "repository", lambda: None)
    return folder


def spoil(folder, how):
    path = folder / "a.npz"
    path.unlink() if how == "missing" else path.write_bytes(CONTENT[:-1] + b"?")


def test_a_whole_shipped_file_is_used_and_nothing_is_fetched(shipped, cache):
    assert files.data_file("a.npz") == shipped / "a.npz" and not cache.exists()


def test_every_listed_file_of_the_package_is_whole():
    names = files.read_sums(files.data_folder() / "SHA256SUMS")
    assert len(names) >= 6
    for name in names:
        assert files.data_file(name) == files.data_folder() / name


def test_an_unknown_name_gets_the_list(shipped):
    with pytest.raises(ValueError, match=r"name is 'b.npz'; expected one of \['a.npz'\]"):
        files.data_file("b.npz")


def test_without_hashes_nothing_is_trusted(shipped):
    (shipped / "SHA256SUMS").unlink()
    with pytest.raises(
        FileNotFoundError, match="SHA256SUMS is not in the data folder .*; install fusion_lib again"
    ):
        files.data_file("a.npz")


@pytest.mark.parametrize(
    "how, fault",
    [("missing", "is not in the data folder"), ("damaged", "does not have the sha256")],
)
def test_spoilt_without_a_repository(shipped, cache, how, fault):
    spoil(shipped, how)
    with pytest.raises(
        FileNotFoundError, match=rf"a.npz {fault}.* names no repository to fetch it from; install"
    ):
        files.data_file("a.npz")
    assert not cache.exists()


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_spoilt_is_fetched_once_into_the_cache(shipped, cache, monkeypatch, how):
    spoil(shipped, how)
    before = sorted((p.name, p.read_bytes()) for p in shipped.iterdir())
    with server(CONTENT) as (address, seen):
        monkeypatch.setattr(files, "repository", lambda: address)
        path = files.data_file("a.npz")
        assert (
            path == files.data_file("a.npz") == cache / "data" / "a.npz"
            and path.read_bytes() == CONTENT
        )
        assert len(seen) == 1 and seen.paths == ["/file/raw/HEAD/data/a.npz"]
    assert sorted((p.name, p.read_bytes()) for p in shipped.iterdir()) == before
    path.write_bytes(b"damaged in the cache, too")
    with pytest.raises(OSError, match="does not answer"):  # by now the server is gone
        files.data_file("a.npz")


def test_scenes_are_read_from_a_fetched_file(tmp_path, cache, monkeypatch):
    whole = files.data_folder()
    monkeypatch.setattr(files, "data_folder", lambda: tmp_path)
    shutil.copy(whole / "SHA256SUMS", tmp_path)
    with server((whole / "scenes_val.npz").read_bytes()) as (address, _):
        monkeypatch.setattr(files, "repository", lambda: address)
        assert len(datasets.Scenes("val")) == 100
    assert files.sha256(cache / "data" / "scenes_val.npz") == files.sha256(whole / "scenes_val.npz")


# --- fetching: what may come instead of the file -------------------------------------------------


def left(path):
    return {p.name: p.read_bytes() for p in path.parent.iterdir()}


def test_no_network(tmp_path):
    with server(b"") as (address, _):
        pass  # the server is gone again
    with pytest.raises(
        OSError,
        match=(
            r"file does not answer \(.*refused.*\). Ask the author; what was fetched so far is kept"
        ),
    ):
        files.fetch(address, tmp_path / "a", SHA256, "Ask the author")
    assert left(tmp_path / "a") == {}


def test_unknown_host(tmp_path):
    with pytest.raises(OSError, match="https://host.invalid/a does not answer"):
        files.fetch("https://host.invalid/a", tmp_path / "a", SHA256)


def test_no_such_file(tmp_path):
    with server(b"Not Found", status=404) as (address, _):
        with pytest.raises(OSError, match="does not answer .*404"):
            files.fetch(address, tmp_path / "a", SHA256)
    assert left(tmp_path / "a") == {}


def test_cut_off_then_taken_up_again(tmp_path):
    with server(CONTENT, cut=12_345) as (address, seen):
        with pytest.raises(
            OSError, match=f"the download stopped at 12345 of {len(CONTENT)} bytes; call again"
        ):
            files.fetch(address, tmp_path / "a", SHA256)
        assert left(tmp_path / "a") == {"a.part": CONTENT[:12_345]}
        assert files.fetch(address, tmp_path / "a", SHA256).read_bytes() == CONTENT
    assert seen == [None, "bytes=12345-"] and left(tmp_path / "a") == {"a": CONTENT}


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><p>Sign in to this network",
        b" \n<html>over quota",
        b'<?xml version="1.0"?>',
    ],
)
def test_error_page_with_status_200(tmp_path, page):
    with server(page) as (address, _):
        with pytest.raises(OSError, match="answers with a page instead of the file"):
            files.fetch(address, tmp_path / "a", SHA256)
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize("content", [CONTENT + b"!", b'{"error": "rate limit exceeded"}', b""])
def test_wrong_hash(tmp_path, content):
    with (
        server(content) as (address, _),
        pytest.raises(
            OSError, match=rf"gave a file with sha256 .*expected {SHA256[:12]}.*it was removed"
        ),
    ):
        files.fetch(address, tmp_path / "a", SHA256)
    assert left(tmp_path / "a") == {}


def test_what_was_fetched_of_another_version_does_not_block(tmp_path):
    """The file became shorter than what an earlier call fetched of it: begin anew."""
    (tmp_path / "a.part").write_bytes(3 * CONTENT)
    with server(CONTENT) as (address, seen):
        assert files.fetch(address, tmp_path / "a", SHA256).read_bytes() == CONTENT
    assert seen == [f"bytes={3 * len(CONTENT)}-", None] and left(tmp_path / "a") == {"a": CONTENT}


def test_a_spoilt_beginning_is_not_continued_twice(tmp_path):
    (tmp_path / "a.part").write_bytes(b"what another version began with")
    with server(CONTENT) as (address, _):
        with pytest.raises(OSError, match="it was removed"):
            files.fetch(address, tmp_path / "a", SHA256)
        assert files.fetch(address, tmp_path / "a", SHA256).read_bytes() == CONTENT


# --- where the project was published ------------------------------------------------------------


@pytest.mark.parametrize(
    "lines, expected",
    [
        (
            ["Homepage, https://example.org/x", "Repository, https://github.com/jane/seg"],
            "https://github.com/jane/seg",
        ),
        (["Repository, https://github.com/OWNER/REPO"], None),
        (["Homepage, https://example.org/x"], None),
        (None, None),
    ],
)
def test_repository_is_what_the_package_states(monkeypatch, lines, expected):
    class Stated:
        def get_all(self, name):
            return lines if name == "Project-URL" else None

    monkeypatch.setattr(files.metadata, "metadata", lambda name: Stated())
    assert files.repository() == expected


def test_a_copied_package_states_no_repository(monkeypatch):
    def missing(name):
        raise files.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(files.metadata, "metadata", missing)
    assert files.repository() is None
