"""Shipped files: the whole one is used, a missing or damaged one fetched, and nothing but the right
bytes is kept."""

import errno
import gzip
import hashlib
import http.client
import os
import re
import shutil
import threading

import numpy as np
import pytest
from filelock import FileLock
from servers import server

from fusion_lib import datasets
from fusion_lib.engine import files

CONTENT = b"the file as it was published\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ASK = "Ask the author"


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


@pytest.mark.parametrize("how, fault", [("missing", "is missing"), ("damaged", "is damaged")])
def test_spoilt_without_a_repository(shipped, cache, how, fault):
    spoil(shipped, how)
    with pytest.raises(
        FileNotFoundError, match=rf"a.npz {fault}, and no repository is named; install"
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
        assert seen == ["/file/raw/HEAD/data/a.npz"]
    assert sorted((p.name, p.read_bytes()) for p in shipped.iterdir()) == before
    path.write_bytes(b"damaged in the cache, too")
    with pytest.raises(OSError, match="cannot be fetched .*Or install fusion_lib again"):
        files.data_file("a.npz")  # by now the server is gone


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
    """What is there now, but for the empty file at which others wait."""
    return {p.name: p.read_bytes() for p in path.parent.iterdir() if p.suffix != ".lock"}


def test_no_network(tmp_path):
    with server(b"") as (address, _):
        pass  # the server is gone again
    with pytest.raises(OSError, match=r"file cannot be fetched \(.*refused.*\). Ask the author$"):
        files.fetch(address, tmp_path / "a", ASK, SHA256)
    assert left(tmp_path / "a") == {}


def test_unknown_host(tmp_path):
    with pytest.raises(OSError, match="https://host.invalid/a cannot be fetched"):
        files.fetch("https://host.invalid/a", tmp_path / "a", ASK, SHA256)


def test_no_such_file(tmp_path):
    with (
        server(b"Not Found", status=404) as (address, _),
        pytest.raises(OSError, match="cannot be fetched .*404"),
    ):
        files.fetch(address, tmp_path / "a", ASK, SHA256)
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize("before", [{}, {"a": b"damaged"}])
def test_cut_off_then_fetched_by_another_call(tmp_path, before):
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    with server(CONTENT, cut=12_345) as (address, seen):
        with pytest.raises(
            OSError, match=r"file cannot be fetched \(.*12345 bytes read.*Ask the author$"
        ):
            files.fetch(address, tmp_path / "a", ASK, SHA256)
        assert left(tmp_path / "a") == before
        assert files.fetch(address, tmp_path / "a", ASK, SHA256).read_bytes() == CONTENT
    assert len(seen) == 2 and left(tmp_path / "a") == {"a": CONTENT}


def test_an_interrupted_download_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"damaged")
    monkeypatch.setattr(http.client.HTTPResponse, "read", interrupted)
    with server(CONTENT) as (address, _), pytest.raises(KeyboardInterrupt):
        files.fetch(address, tmp_path / "a", ASK, SHA256)
    assert left(tmp_path / "a") == {"a": b"damaged"}


@pytest.mark.parametrize("expected", [None, SHA256])
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
def test_error_page_with_status_200(tmp_path, page, expected):
    found = re.escape(f"file answers with {len(page)} bytes, {page!r} instead of the whole file. ")
    with server(page) as (address, _), pytest.raises(OSError, match=f"{found}{ASK}$"):
        files.fetch(address, tmp_path / "a", ASK, expected)
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize("content", [CONTENT + b"!", b"Not Found", b"x"])
def test_wrong_hash(tmp_path, content):
    with (
        server(content) as (address, _),
        pytest.raises(OSError, match=rf"file answers with {len(content)} bytes, b.* instead of"),
    ):
        files.fetch(address, tmp_path / "a", ASK, SHA256)
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
        pytest.raises(OSError, match="answers with .* bytes, b.* instead of the whole file"),
    ):
        files.fetch(address, tmp_path / "a.gz", ASK)
    assert left(tmp_path / "a") == {}


@pytest.mark.parametrize("kind", [None, "text/plain", "application/gzip"])
def test_the_content_alone_decides(tmp_path, kind):
    """Servers often say text/plain of what they do not know."""
    with server(CONTENT, kind=kind) as (address, _):
        assert files.fetch(address, tmp_path / "a", ASK, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("expected", [None, SHA256])
@pytest.mark.parametrize("length", [True, False])
def test_empty_body(tmp_path, expected, length):
    (tmp_path / "a").write_bytes(b"")
    with (
        server(b"", length=length) as (address, _),
        pytest.raises(OSError, match="answers with 0 bytes, b'' instead of the whole file. Ask"),
    ):
        files.fetch(address, tmp_path / "a", ASK, expected)
    assert left(tmp_path / "a") == {"a": b""}


ARCHIVE = gzip.compress(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize("expected", [None, hashlib.sha256(ARCHIVE).hexdigest()])
@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_cut_body_of_unknown_length_is_not_taken_for_whole(tmp_path, cut, expected):
    with server(ARCHIVE, cut=len(ARCHIVE) - cut, length=False) as (address, _):
        with pytest.raises(OSError, match=f"answers with {len(ARCHIVE) - cut} bytes, b"):
            files.fetch(address, tmp_path / "a.tar.gz", ASK, expected)
        assert left(tmp_path / "a") == {}
        path = files.fetch(address, tmp_path / "a.tar.gz", ASK, expected)
        assert path.read_bytes() == ARCHIVE


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_cut_archive_whose_stated_length_fits_is_not_taken_for_whole(tmp_path, cut):
    with (
        server(ARCHIVE[:-cut]) as (address, _),
        pytest.raises(OSError, match="bytes, b.* instead of the whole file. Ask the author$"),
    ):
        files.fetch(address, tmp_path / "a.gz", ASK)
    assert left(tmp_path / "a.gz") == {}


@pytest.mark.parametrize("expected", [None, hashlib.sha256(ARCHIVE).hexdigest()])
def test_a_whole_body_of_unknown_length(tmp_path, expected):
    with server(ARCHIVE, length=False) as (address, _):
        assert files.fetch(address, tmp_path / "a.gz", ASK, expected).read_bytes() == ARCHIVE
    assert list(left(tmp_path / "a")) == ["a.gz"]


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("content", [bytes(999), b"PK" + bytes(999)])
def test_a_body_of_a_kind_that_does_not_tell_its_end_needs_a_hash(tmp_path, length, content):
    with server(content, length=length) as (address, _):
        with pytest.raises(OSError, match="answers with .* bytes, b.* instead of the whole file"):
            files.fetch(address, tmp_path / "a", ASK)
        assert left(tmp_path / "a") == {}
        expected = hashlib.sha256(content).hexdigest()
        assert files.fetch(address, tmp_path / "a", ASK, expected).read_bytes() == content


@pytest.mark.parametrize("content, expected", [(CONTENT, SHA256), (ARCHIVE, None)])
def test_what_is_there_whole_is_not_fetched_again(tmp_path, content, expected):
    (tmp_path / "a").write_bytes(content)
    with server(b"something else") as (address, seen):
        assert files.fetch(address, tmp_path / "a", ASK, expected).read_bytes() == content
    assert not seen


def test_of_several_processes_one_fetches(tmp_path, monkeypatch):
    """The second waits while the first has the lock, and takes what it got, without asking."""
    waiting = threading.Event()

    def lock(path):
        waiting.set()
        return FileLock(path)

    monkeypatch.setattr("filelock.FileLock", lock)
    with server(CONTENT) as (address, seen):
        with FileLock(tmp_path / "a.lock"):
            arguments = address, tmp_path / "a", ASK, SHA256
            second = threading.Thread(target=files.fetch, args=arguments)
            second.start()
            waiting.wait()
            (tmp_path / "a").write_bytes(CONTENT)
        second.join()
    assert not seen and left(tmp_path / "a") == {"a": CONTENT}


def test_fetching_in_many_threads_gives_one_whole_file(tmp_path):
    wrong = []

    def fetch():
        try:
            assert files.fetch(address, tmp_path / "a", ASK, SHA256).read_bytes() == CONTENT
        except Exception as error:
            wrong.append(error)

    with server(CONTENT) as (address, seen):
        threads = [threading.Thread(target=fetch) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == [] and len(seen) == 1 and left(tmp_path / "a") == {"a": CONTENT}


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


def test_what_a_killed_writer_left_is_removed_an_hour_later(tmp_path):
    old, young = tmp_path / "state.[1].123.4.part", tmp_path / "state.[1].124.4.part"
    others = [tmp_path / "state.[1].part", tmp_path / "state.1.123.4.part"]
    for path in (old, young, *others):
        path.write_bytes(b"half")
    for path in (old, *others):
        os.utime(path, (0, 0))
    files.write_whole(tmp_path / "state.[1]", b"1")
    assert left(old).keys() == {"state.[1]", young.name, *(path.name for path in others)}


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
