"""Shipped files: the whole one is used, a missing or damaged one fetched, and nothing but the right
bytes is kept."""

import errno
import gzip
import hashlib
import io
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save
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
    with (
        server(b"Not Found", status=404) as (address, _),
        pytest.raises(OSError, match="does not answer .*404"),
    ):
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
        b"\xef\xbb\xbf<!doctype html>",
        b'{"error": "rate limit exceeded"}',
        b'[{"message": "Not Found"}]',
    ],
)
def test_error_page_with_status_200(tmp_path, page):
    with (
        server(page) as (address, _),
        pytest.raises(OSError, match="answers with a page instead of the file"),
    ):
        files.fetch(address, tmp_path / "a", SHA256)
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize("content", [CONTENT + b"!", b"Not Found", b"x"])
def test_wrong_hash(tmp_path, content):
    with (
        server(content) as (address, _),
        pytest.raises(
            OSError, match=rf"gave a file with sha256 .*expected {SHA256[:12]}.*it was removed"
        ),
    ):
        files.fetch(address, tmp_path / "a", SHA256)
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize(
    "kind, page",
    [
        ("text/html; charset=utf-8", b"\x1f\x8b" + bytes(99)),
        ("application/json", b"\x1f\x8b" + bytes(99)),
        ("application/problem+json", b"\x1f\x8b" + bytes(99)),
        ("text/plain", "Nicht verfügbar".encode("latin-1")),
        ("application/gzip", b"quota exceeded\n"),
        (None, "配额已用完，请稍后再试。".encode() * 100),
    ],
)
def test_pages_of_any_kind_without_a_hash(tmp_path, kind, page):
    with (
        server(page, kind=kind) as (address, _),
        pytest.raises(OSError, match="answers with a page instead of the file"),
    ):
        files.fetch(address, tmp_path / "a.gz")
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize("kind", [None, "text/plain", "application/gzip"])
def test_with_a_hash_the_content_alone_decides(tmp_path, kind):
    """Servers often say text/plain of what they do not know."""
    with server(CONTENT, kind=kind) as (address, _):
        assert files.fetch(address, tmp_path / "a", SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("expected", [None, SHA256])
@pytest.mark.parametrize("length", [True, False])
def test_empty_body(tmp_path, expected, length):
    (tmp_path / "b.part").write_bytes(b"fetched before")
    with (
        server(b"", length=length) as (address, _),
        pytest.raises(OSError, match="answers with an empty file. Ask the author"),
    ):
        files.fetch(address, tmp_path / "a", expected, "Ask the author")
    with (
        server(b"", length=length, ranges=False) as (address, _),
        pytest.raises(OSError, match="answers with an empty file"),
    ):
        files.fetch(address, tmp_path / "b", expected)
    assert left(tmp_path / "a") == {"b.part": b"fetched before"}


def archives() -> dict[str, bytes]:
    numbers = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    zipped = io.BytesIO()
    np.savez(zipped, numbers=numbers)
    return {
        "a.tar.gz": gzip.compress(numbers.tobytes()),
        "a.npz": zipped.getvalue(),
        "a.safetensors": save({"numbers": torch.from_numpy(numbers)}),
    }


@pytest.mark.parametrize("name", archives())
@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_cut_body_of_unknown_length_is_not_taken_for_whole(tmp_path, name, cut):
    content = archives()[name]
    with server(content, cut=len(content) - cut, length=False) as (address, seen):
        with pytest.raises(
            OSError, match=f"stopped at {len(content) - cut} of an unknown number of bytes; call"
        ):
            files.fetch(address, tmp_path / name)
        assert list(left(tmp_path / name)) == [f"{name}.part"]
        assert files.fetch(address, tmp_path / name).read_bytes() == content
    assert seen == [None, f"bytes={len(content) - cut}-"]


@pytest.mark.parametrize("name", archives())
def test_a_whole_body_of_unknown_length(tmp_path, name):
    with server(archives()[name], length=False) as (address, _):
        assert files.fetch(address, tmp_path / name).read_bytes() == archives()[name]
    assert list(left(tmp_path / name)) == [name]


def test_a_body_of_unknown_length_and_kind_is_not_believed(tmp_path):
    with (
        server(bytes(999), length=False) as (address, _),
        pytest.raises(OSError, match="stopped at 999 of an unknown number of bytes"),
    ):
        files.fetch(address, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("before", [None, b"what was fetched before"])
def test_a_server_that_refuses_every_range(tmp_path, before):
    """Status 416 also where no range was asked for."""
    if before:
        (tmp_path / "a.part").write_bytes(before)
    with (
        server(b"", status=416) as (address, seen),
        pytest.raises(OSError, match="file does not answer .*416"),
    ):
        files.fetch(address, tmp_path / "a")
    assert seen[-1] is None and left(tmp_path / "a") == {}


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


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_writers_in_one_folder_never_tear_each_others_files(tmp_path, keep):
    """Each writes one letter over and over; whoever reads sees one letter, as often as written."""
    path, stop, wrong = tmp_path / "state", threading.Event(), []
    before = tmp_path / "state_before" if keep else None
    files.write_whole(path, b"a" * 100_000)

    def write(letter: bytes):
        try:
            for _ in range(40):
                files.write_whole(path, letter * 100_000, before)
        except OSError as error:
            wrong.append(error)

    def read():
        while not stop.is_set():
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # between the two moves
                assert keep
                continue
            if content != content[:1] * 100_000:
                wrong.append(len(content))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert wrong == []
    assert {p.name for p in tmp_path.iterdir()} == {"state"} | ({"state_before"} if keep else set())


def test_keep_moves_what_was_there_before(tmp_path):
    path, before = tmp_path / "state", tmp_path / "before"
    files.write_whole(path, b"1", before)
    assert left(path) == {"state": b"1"}
    files.write_whole(path, b"2", before)
    assert left(path) == {"state": b"2", "before": b"1"}


def test_a_full_disk_leaves_what_was_there_before(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write_whole(tmp_path / "state", b"1")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write state .No space left.* is unharmed") as caught:
        files.write_whole(tmp_path / "state", b"2")
    assert caught.value.errno == errno.ENOSPC and left(tmp_path / "state") == {"state": b"1"}


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
