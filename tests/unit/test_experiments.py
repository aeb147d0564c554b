"""The experiment runner: what it writes, what it refuses, and what must survive kills and broken
files."""

import csv
import errno
import io
import json
import os
import random
import re
import runpy
import select as readiness
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fusion_lib.engine import files
from fusion_lib.engine.files import data_folder
from fusion_lib.lab import declared, experiments, measures, runner
from fusion_lib.lab.experiments import EXPERIMENTS, again, main, results
from fusion_lib.lab.runner import Experiment, Table

MODELS = ("one", "two", 'said "ä", so', "last")
RUNS = tuple({"rate": rate, "model": model} for rate in (0.015, 1.0) for model in MODELS)
HEADER = "rate,model,score,other,curve,commit,versions,device,minutes,memory_mib,settings"
COUNT = len(RUNS)


def numbers_of(run: dict) -> dict:
    """What a run yields: nothing but arithmetic, with more digits than a file keeps."""
    score = run["rate"] / 3 + len(run["model"])
    curve = [score / (step + 2) for step in range(3)]
    return {"score": score, "curve": curve, "minutes": score / 7, "memory_mib": 123.456789}


def settings_of(run: dict) -> dict:
    return {**run, "epochs": 3, "size": (8, 8), "labels": None}


def toy(
    measure=None, settings=settings_of, runs=RUNS, measured=("score", "other", "curve")
) -> Experiment:
    return Experiment(
        "A toy.", runs, measured, settings, measure or (lambda run, folder: numbers_of(run))
    )


class Recorder:
    """A `measure` that remembers what it was asked, and raises `error` instead of its run number
    `at`."""

    def __init__(self, at: int | None = None, error: BaseException | None = None):
        self.runs, self.folders, self.at, self.error = [], [], at, error

    def __call__(self, run, folder):
        if len(self.runs) == self.at:
            raise self.error
        self.runs.append(run)
        self.folders.append(folder)
        return numbers_of(run)


def go(path: Path, experiment: Experiment | None = None) -> None:
    runner.make_missing(experiment or toy(), path, path.parent / "scratch")


def measured_now(path: Path, **changes) -> list[dict]:
    """The runs that a runner finds to do in a file, and does."""
    recorder = Recorder()
    go(path, toy(recorder, **changes))
    return recorder.runs


def stored(path: Path) -> list[list[str]]:
    """The cells of a file that tell the runs apart and hold their numbers, in the file's order."""
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    return [[*row[:5], *row[8:]] for row in rows]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No test here can see whether the disk was waited for: the kills fall on other processes, and
    those do wait."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "results" / "toy.csv"


@pytest.fixture
def done(path) -> Path:
    """A file in which every run is stored."""
    go(path)
    return path


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """The toy among the declared experiments; returns where its results file belongs."""
    monkeypatch.setattr(experiments, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"toy": toy(), "other": toy()})
    return tmp_path / "results" / "toy.csv"


# --- what a run writes -------------------------------------------------------------------------


def test_one_row_a_run_with_the_declared_columns(path):
    go(path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == HEADER == ",".join(toy().columns)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rate"], row["model"]) for row in rows] == [
        (rate, model) for rate in ("0.015", "1") for model in MODELS
    ]
    for row, run in zip(rows, RUNS):
        expected = numbers_of(run)
        assert (
            float(row["score"]) == pytest.approx(expected["score"], rel=1e-4)
            and len(row["score"]) <= 6
        )
        assert [float(part) for part in row["curve"].split(" ")] == pytest.approx(
            expected["curve"], rel=1e-4
        )
        assert row["other"] == "" and row["memory_mib"] == "123.46"
        assert float(row["minutes"]) == pytest.approx(expected["minutes"], rel=1e-4)
        assert json.loads(row["settings"]) == {**run, "epochs": 3, "size": [8, 8], "labels": None}
    assert {p.name for p in path.parent.iterdir()} <= {"toy.csv", "toy.lock", "scratch"}


def test_each_run_is_measured_in_turn_with_the_scratch_folder(path):
    recorder = Recorder()
    go(path, toy(recorder))
    assert recorder.runs == list(RUNS) and recorder.folders == COUNT * [path.parent / "scratch"]


def test_rows_already_there_are_not_run_again(path):
    recorder = Recorder(at=3, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        go(path, toy(recorder))
    before = path.read_bytes()
    assert len(stored(path)) == 1 + 3
    assert measured_now(path) == list(RUNS[3:])
    assert path.read_bytes().startswith(before)
    assert measured_now(path) == []


def test_interrupted_and_straight_give_the_same_table(path, tmp_path):
    go(tmp_path / "straight.csv")
    for at in (0, 2, 0, 1, 4):
        with pytest.raises(ZeroDivisionError):
            go(path, toy(Recorder(at, ZeroDivisionError())))
    go(path)
    assert stored(path) == stored(tmp_path / "straight.csv")


def test_a_full_file_is_not_written_again(done):
    before, time_ns = done.read_bytes(), done.stat().st_mtime_ns
    go(done)
    assert done.read_bytes() == before and done.stat().st_mtime_ns == time_ns


def test_runs_declared_later_are_added(path):
    go(path, toy(runs=RUNS[2:4]))
    before = path.read_bytes()
    assert measured_now(path) == [*RUNS[:2], *RUNS[4:]]
    assert path.read_bytes().startswith(before)


def test_progress_bar_counts_what_is_there(path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "tqdm", partial(tqdm, disable=False, mininterval=0))
    with pytest.raises(ZeroDivisionError):
        go(path, toy(Recorder(3, ZeroDivisionError())))
    capsys.readouterr()
    go(path)
    shown = capsys.readouterr().err
    assert (
        "toy:" in shown
        and f"3/{COUNT}" in shown
        and f"{COUNT}/{COUNT}" in shown
        and f"2/{COUNT}" not in shown
    )
    assert "0.015 last" in shown


@pytest.mark.parametrize(
    "how",
    [
        "line ends of Windows",
        "needless quotes",
        "no last line end",
        "other row order",
        "blank lines",
    ],
)
def test_rows_are_kept_byte_for_byte(path, how):
    """A file that another program has saved: read as before, and its bytes stay when a row is
    added."""
    go(path, toy(runs=RUNS[:3]))
    text = path.read_bytes()
    lines = text.splitlines()
    text = {
        "line ends of Windows": b"\r\n".join(lines) + b"\r\n",
        "needless quotes": text.replace(b"\n0.015,", b'\n"0.015",').replace(b"123.46", b"123.460"),
        "no last line end": text[:-1],
        "other row order": b"\n".join([lines[0], *lines[:0:-1]]) + b"\n",
        "blank lines": text.replace(b"\n", b"\n\n"),
    }[how]
    path.write_bytes(text)
    assert measured_now(path) == list(RUNS[3:])
    assert path.read_bytes().startswith(text if text.endswith(b"\n") else text + b"\n0.015,last,")
    table = Table(toy(), path)
    assert table.missing() == [] and len(table.problems) == (4 if how == "blank lines" else 0)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.1234561, 0.1234562), (1, 1.0)])
def test_runs_that_the_file_could_not_tell_apart(path, rates):
    with pytest.raises(ValueError, match="toy declares two runs that look the same in five digits"):
        go(path, toy(runs=tuple({"rate": rate, "model": "one"} for rate in rates)))
    assert not path.exists()


# --- numbers -----------------------------------------------------------------------------------


def one_run(path: Path, **numbers) -> dict:
    """The row of a single run with these numbers, read back from the file."""
    experiment = toy(
        lambda run, folder: {"minutes": 1.0, "memory_mib": 2.0, **numbers}, runs=RUNS[:1]
    )
    go(path, experiment)
    table = Table(experiment, path)
    assert table.problems == [] and len(table.rows) == 1
    return table.rows[table.key(RUNS[0])]


@pytest.mark.parametrize(
    "value, read",
    [
        (1 / 3, 0.33333),
        (7, 7.0),
        (-2.5e-9, -2.5e-9),
        (123456.0, 123460.0),
        (float("inf"), float("inf")),
        (0, 0.0),
        (np.float32(0.125), 0.125),
        (np.float64(1 / 3), 0.33333),
        (np.int64(3), 3.0),
        (None, None),
        ([], None),
        ([0.5, 1, 1e-7], [0.5, 1.0, 1e-7]),
        ([float("inf"), 2.0], [float("inf"), 2.0]),
    ],
)
def test_numbers_and_series_are_read_back(path, value, read):
    row = one_run(path, score=0.5, curve=value)
    assert row["curve"] == read and type(row["curve"]) is type(read)
    assert (
        row["score"] == 0.5
        and row["other"] is None
        and row["minutes"] == 1.0
        and row["memory_mib"] == 2.0
    )


def test_nan_stays_nan(path):
    row = one_run(path, score=float("nan"), curve=[0.5, float("nan"), None])
    assert np.isnan(row["score"])
    assert row["curve"][0] == 0.5 and np.isnan(row["curve"][1:]).all() and len(row["curve"]) == 3


@pytest.mark.parametrize("cost", ["minutes", "memory_mib"])
def test_cost_may_be_left_out(path, cost):
    assert one_run(path, **{cost: None})[cost] is None


def test_a_row_is_the_same_before_and_after_it_is_read(path):
    table = Table(toy(), path)
    for run in RUNS:
        table.append(run, numbers_of(run))
    assert table.rows == Table(toy(), path).rows and table.missing() == []
    row = table.rows[table.key(RUNS[5])]
    assert row["rate"] == 1.0 and row["model"] == "two"
    assert row["score"] == pytest.approx(numbers_of(RUNS[5])["score"], rel=1e-4)


@pytest.mark.parametrize(
    "numbers, named",
    [
        (
            {"scroe": 1.0, "fresh": 2.0},
            r"\['fresh', 'scroe'\], which the experiment does not declare",
        ),
        ({"model": "two"}, r"\['model'\], which the experiment does not declare"),
        ({"commit": "0"}, r"\['commit'\], which the experiment does not declare"),
        ({"score": "high"}, "no number .*'high'"),
        ({"curve": (0.5, 0.5)}, "no number"),
        ({"curve": np.array([0.5, 0.5])}, "no number"),
        ({"score": torch.tensor(0.5)}, "no number"),
        ({"score": True}, "no number .*'True'"),
        ({"minutes": "1 min"}, "no number .*'min'"),
    ],
)
def test_numbers_that_cannot_be_stored_are_refused_before_anything_is_written(path, numbers, named):
    for there in (0, 2):
        if there:
            go(path, toy(runs=RUNS[:there]))
        before = path.read_bytes() if there else None
        with pytest.raises(ValueError, match=f"numbers holds .*{named}"):
            go(path, toy(lambda run, folder: {**numbers_of(run), **numbers}))
        assert (path.read_bytes() if path.exists() else None) == before
    assert measured_now(path) == list(RUNS[2:])


# --- where a row comes from --------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """As in a new process: nothing is remembered of where rows come from."""
    monkeypatch.setattr(runner, "provenance", cache(runner.provenance.__wrapped__))


@pytest.fixture
def checkout(tmp_path, monkeypatch, started):
    """A repository with one commit, as the place the package lies in; returns a way to call git
    there."""
    root = tmp_path / "checkout"
    (root / "fusion_lib").mkdir(parents=True)
    (root / "fusion_lib" / "code.py").write_text("one = 1\n")

    def git(*arguments: str) -> str:
        identity = (
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
        )
        return subprocess.run(
            ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout

    try:
        git("init", "-q")
    except OSError:
        pytest.skip("git is missing")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(runner, "ROOT", root)
    return git


def test_commit_of_the_code(path, checkout):
    row = one_run(path)
    assert len(row["commit"]) == 10 and checkout("rev-parse", "HEAD").startswith(row["commit"])


def test_code_that_differs_from_its_commit_is_marked(path, checkout):
    (runner.ROOT / "notes.txt").write_text("not code")
    assert runner.provenance.__wrapped__()["commit"][-1] != "+"
    (runner.ROOT / "fusion_lib" / "code.py").write_text("one = 2\n")
    assert re.fullmatch(r"[0-9a-f]{10}\+", one_run(path)["commit"])


def test_commit_is_that_of_the_code_that_runs(path, checkout):
    """Python has read the code when the runner starts; a commit made while it works changes nothing
    in what it runs."""
    head = checkout("rev-parse", "HEAD")

    def measure(run, folder):
        checkout("commit", "-q", "--allow-empty", "-m", "meanwhile")
        return numbers_of(run)

    go(path, toy(measure))
    table = Table(toy(), path)
    commits = {row["commit"] for row in table.rows.values()}
    assert (
        len(commits) == 1
        and head.startswith(commits.pop())
        and checkout("rev-parse", "HEAD") != head
    )


@pytest.mark.parametrize("why", ["no repository", "no git"])
def test_outside_a_checkout_the_commit_is_empty(path, checkout, monkeypatch, tmp_path, why):
    if why == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        monkeypatch.setattr(runner, "ROOT", tmp_path)
    assert one_run(path)["commit"] == ""


def test_versions_and_device(path, monkeypatch, started):
    monkeypatch.setattr(runner, "PACKAGES", (*runner.PACKAGES, "a-package-nobody-has"))
    row = one_run(path)
    versions = dict(part.split(" ") for part in row["versions"].split(", "))
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (
        versions["torch"] == torch.__version__.split("+")[0]
        or versions["torch"] == torch.__version__
    )
    assert versions["numpy"] == np.__version__ and "a-package-nobody-has" not in versions
    cpu = f"CPU, {torch.get_num_threads()} threads"
    assert row["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else cpu)


# --- rows that cannot be used ------------------------------------------------------------------


def spoil(path: Path, line: int, change) -> bytes:
    """Change a line of a file (the header is line 1); returns the line as it now stands."""
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines))
    return lines[line - 1]


BROKEN = {
    "too few cells": (
        lambda line: b",".join(line.split(b",")[:4]),
        "4 cells where 11 are expected",
    ),
    "too many cells": (lambda line: line + b",x", "12 cells where 11 are expected"),
    "nothing": (lambda line: b"", "0 cells where 11 are expected"),
    "no number": (
        lambda line: line.replace(b"123.46", b"123.46x"),
        r"a cell cannot be read \(.*'123.46x'",
    ),
    "no number in a series": (
        lambda line: re.sub(rb"(\d) (\d)", rb"\1 - \2", line),
        r"a cell cannot be read \(.*'-'",
    ),
    "settings cut short": (lambda line: line[:-5], r"a cell cannot be read \("),
    "settings empty": (lambda line: line[: line.index(b'"{')], r"a cell cannot be read \("),
    "settings of another kind": (
        lambda line: line[: line.index(b'"{')] + b"[1]",
        "settings is no JSON object",
    ),
    "undeclared run": (
        lambda line: line.replace(b"0.015,two", b"0.015,three", 1),
        r"a run that is not declared: .*'three'",
    ),
    "undeclared number": (
        lambda line: line.replace(b"0.015,", b"0.0151,", 1),
        r"a run that is not declared: .*'0.0151'",
    ),
    "repeated run": (
        lambda line: line.replace(b"0.015,two", b"0.015,one", 1),
        "the same run as an earlier line",
    ),
    "open quote": (lambda line: b'"' + line.replace(b'"', b""), "1 cells where 11 are expected"),
    "carriage return": (lambda line: line.replace(b",", b",\r", 1), "cells where 11 are expected"),
    "not UTF-8": (lambda line: line.replace(b"two", b"tw\xff", 1), "a run that is not declared"),
    "zero byte": (lambda line: line.replace(b",", b"\0", 1), "cells where 11 are expected"),
    "very long cell": (lambda line: b"1" * 140_000 + b"," + line, "cells where 11 are expected"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_unusable_row_is_reported_kept_and_not_used(path, capsys, how):
    change, message = BROKEN[how]
    go(path, toy(runs=RUNS[:3]))
    line = spoil(path, 3, change)
    before = path.read_bytes()
    report = re.compile(rf"toy\.csv, line 3: .*{message}.*; kept, not used")

    table = Table(toy(), path)
    assert len(table.problems) == 1 and report.search(table.problems[0])
    assert table.missing() == [RUNS[1], *RUNS[3:]]
    assert path.read_bytes() == before

    assert measured_now(path) == [RUNS[1], *RUNS[3:]]
    assert len(report.findall(capsys.readouterr().err)) == 1
    assert path.read_bytes().startswith(before) and path.read_bytes().split(b"\n")[2] == line

    table = Table(toy(), path)  # and the new rows are whole
    assert len(table.problems) == 1 and report.search(table.problems[0]) and table.missing() == []
    assert table.rows[table.key(RUNS[1])]["score"] == pytest.approx(
        numbers_of(RUNS[1])["score"], rel=1e-4
    )


def test_each_unusable_row_is_reported_with_its_line(done):
    for line, how in (
        (3, "undeclared run"),
        (4, "open quote"),
        (6, "too few cells"),
        (9, "settings cut short"),
    ):
        spoil(done, line, BROKEN[how][0])
    table = Table(toy(), done)
    assert [
        re.match(r"toy\.csv, line (\d+): ", problem).group(1) for problem in table.problems
    ] == ["3", "4", "6", "9"]
    assert table.missing() == [RUNS[line - 2] for line in (3, 4, 6, 9)]


def test_of_two_rows_of_a_run_the_first_that_can_be_read_counts(path):
    go(path, toy(runs=RUNS[:1]))
    header, row, _ = path.read_bytes().split(b"\n")
    broken, other = row.replace(b"123.46", b"no"), row.replace(b"123.46", b"7")
    path.write_bytes(b"\n".join([header, broken, row, other, b""]))
    table = Table(toy(), path)
    assert [problem.split(":")[0] for problem in table.problems] == [
        "toy.csv, line 2",
        "toy.csv, line 4",
    ]
    assert table.rows[table.key(RUNS[0])]["memory_mib"] == 123.46


# --- files of another version ------------------------------------------------------------------


@pytest.mark.parametrize(
    "measured, said",
    [
        (("score", "other"), r"columns \['curve'\] are no longer declared, \[\] are new"),
        (
            ("score", "other", "curve", "fresh"),
            r"columns \[\] are no longer declared, \['fresh'\] are new",
        ),
        (
            ("a", "other", "curve", "b"),
            r"columns \['score'\] are no longer declared, \['a', 'b'\] are new",
        ),
        (
            ("other", "score", "curve"),
            r"columns \[\] are no longer declared, \[\] are new \(or the order differs\)",
        ),
    ],
)
def test_other_columns_are_refused_by_name(done, measured, said):
    before, recorder = done.read_bytes(), Recorder()
    with pytest.raises(
        ValueError, match=rf"toy\.csv is from another version .*{said}.*move the file away"
    ):
        go(done, toy(recorder, measured=measured))
    assert done.read_bytes() == before and recorder.runs == []


@pytest.mark.parametrize("content", [b"", b"\n", b"hello", b"\0\xff\r\r,", HEADER.encode()[:-3]])
def test_a_file_of_something_else_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"toy\.csv is from another version .*: columns .*'settings'.* are new"
    ):
        go(path)
    assert path.read_bytes() == content


def test_a_header_alone_is_a_table_without_rows(path):
    path.parent.mkdir()
    path.write_text(HEADER)
    assert measured_now(path) == list(RUNS) and Table(toy(), path).problems == []


@pytest.mark.parametrize(
    "now, said",
    [
        (
            lambda run: {**settings_of(run), "epochs": 4},
            r"changed \(there, now\): {'epochs': \(3, 4\)};",
        ),
        (lambda run: {**settings_of(run), "size": [8, 9]}, r"{'size': \(\[8, 8\], \[8, 9\]\)};"),
        (lambda run: {**settings_of(run), "fresh": None}, r"{'fresh': \('not there', None\)};"),
        (
            lambda run: {k: v for k, v in settings_of(run).items() if k != "labels"},
            r"{'labels': \(None, 'not there'\)};",
        ),
        (
            lambda run: {**settings_of(run), "tau": 2.0, "epochs": "3"},
            r"{'epochs': \(3, '3'\), 'tau': \('not there', 2.0\)}",
        ),
    ],
)
def test_a_row_made_with_other_settings_is_refused_with_what_changed(done, now, said):
    before, recorder = done.read_bytes(), Recorder()
    with pytest.raises(
        ValueError,
        match=rf"toy\.csv, line 2, is from another version .*{said};? move the file away",
    ):
        go(done, toy(recorder, settings=now))
    assert done.read_bytes() == before and recorder.runs == []


def test_the_line_of_a_row_made_with_other_settings(done):
    spoil(done, 3, BROKEN["open quote"][0])
    spoil(done, 5, lambda line: line.replace(b'""epochs"": 3', b'""epochs"": 30'))
    with pytest.raises(ValueError, match=r"toy\.csv, line 5, .*{'epochs': \(30, 3\)}"):
        go(done)


@pytest.mark.parametrize("how", ["undeclared run", "repeated run", "no number"])
def test_settings_of_rows_that_are_not_used_do_not_matter(done, how):
    spoil(done, 3, lambda line: BROKEN[how][0](line).replace(b'""epochs"": 3', b'""epochs"": 30'))
    assert measured_now(done) == [RUNS[1]]


def test_settings_may_hold_tuples_in_any_order(path):
    go(path, toy(settings=lambda run: {**run, "betas": (0.9, 0.99), "epochs": 3}))
    same = {"settings": lambda run: {"epochs": 3, "betas": [0.9, 0.99], **run}}
    assert measured_now(path, **same) == []


# --- a disk that is full or read-only ----------------------------------------------------------


@pytest.mark.parametrize("how", ["full", "read-only", "renaming refused"])
def test_a_file_that_cannot_be_written_keeps_its_rows(path, monkeypatch, how):
    go(path, toy(runs=RUNS[:2]))
    before, table = path.read_bytes(), Table(toy(), path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        target = {
            "full": (os, "fsync"),
            "read-only": (files, "open"),
            "renaming refused": (os, "replace"),
        }[how]
        broken.setattr(*target, full if how == "full" else refuse, raising=False)
        with pytest.raises(
            OSError, match=r"cannot write toy\.csv .*what was there before is unharmed"
        ):
            table.append(RUNS[2], numbers_of(RUNS[2]))
        with pytest.raises(OSError, match=r"cannot write toy\.csv"):
            go(path)
    assert path.read_bytes() == before and not list(path.parent.glob("*.part"))
    assert table.missing() == list(RUNS[2:])
    table.append(RUNS[2], numbers_of(RUNS[2]))  # the disk is well again
    assert path.read_bytes().startswith(before) and len(stored(path)) == 1 + 3
    assert measured_now(path) == list(RUNS[3:])


# --- one runner a file -------------------------------------------------------------------------


def test_a_second_runner_makes_the_runs_that_the_first_is_not_at_work_on(path, capsys):
    """The first then finds nothing more to do; each run is measured once and has one row."""
    first, second = Recorder(), Recorder()

    def measure(run, folder):
        go(path, toy(second))
        assert "1 runs are in the hands of other runners" in capsys.readouterr().err
        go(path.with_name("other.csv"))  # another file is nobody else's business
        return first(run, folder)

    go(path, toy(measure))
    assert first.runs == [RUNS[0]] and second.runs == list(RUNS[1:])
    header, *rows = stored(path)
    assert [header, rows[-1], *rows[:-1]] == stored(path.with_name("other.csv"))
    assert Table(toy(), path).problems == [] and "runs are in" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()])
def test_a_runner_that_failed_holds_no_lock(path, error):
    """Not even while somebody looks at its error."""
    with pytest.raises(type(error)) as caught:
        go(path, toy(Recorder(1, error)))
    go(path)
    assert len(stored(path)) == 1 + COUNT and caught.value is error


# --- kills -------------------------------------------------------------------------------------

NURSERY = """
    import os, signal, sys, time
    sys.path[:] = {path}
    from pathlib import Path
    from fusion_lib.lab.runner import make_missing
    from test_experiments import numbers_of, toy

    def life(path, how, at, ready):
        def measure(run, folder):
            if how == "hold":
                os.write(ready, b"x")
                time.sleep(600)
            time.sleep(0.004)
            return numbers_of(run)

        def fatal(name, after, calls=[0]):
            original = getattr(os, name)
            def call(*arguments):
                calls[0] += 1
                if calls[0] == at and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                original(*arguments)
                if calls[0] == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            setattr(os, name, call)

        if how != "hold":
            os.write(ready, b"x")
        if how.startswith("die"):
            fatal(how.split()[-1], "after" in how)
        make_missing(toy(measure), Path(path), Path(path).parent / "scratch")

    for line in sys.stdin:
        path, how, at = eval(line)
        hear, ready = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                life(path, how, at, ready)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(ready)
        os.read(hear, 1)
        os.close(hear)
        print("running", flush=True)
        delay = eval(sys.stdin.readline())
        if delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that has imported everything and forks runners, so that a runner's life is short.

    One at a time: `start` returns when the runner is at work, `end` kills it after a delay in
    seconds, or waits for its
    end, and returns its exit status.
    """

    def __init__(self, folder: Path):
        script, self.log = folder / "nursery.py", folder / "log.txt"
        script.write_text(textwrap.dedent(NURSERY).format(path=sys.path))
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "TQDM_DISABLE": "1"},
            )

    def start(self, path: Path, how: str = "run", at: int = 0) -> None:
        assert self._ask((str(path), how, at)) == "running"

    def end(self, kill_after: float | None = None) -> int:
        return int(self._ask(kill_after))

    def _ask(self, what) -> str:
        self.process.stdin.write(f"{what!r}\n")
        self.process.stdin.flush()
        answered = readiness.select([self.process.stdout], [], [], 60)[0]
        answer = self.process.stdout.readline().strip() if answered else ""
        assert answer, f"the nursery is silent; its log: {self.log.read_text()}"
        return answer


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.process.kill()
    nursery.process.communicate()


def table_of(path: Path) -> bytes:
    """What a file holds, if it is there."""
    return path.read_bytes() if path.exists() else b""


def test_killed_at_random_moments_it_ends_with_the_same_table(tmp_path, nursery):
    """The delays follow the machine, be it busy: longer after a life without a new row, shorter
    after one that came to its end."""
    straight = tmp_path / "straight.csv"
    nursery.start(straight)
    began = time.perf_counter()
    assert nursery.end() == 0
    duration, expected = time.perf_counter() - began, stored(straight)
    assert len(expected) == 1 + COUNT

    chance, rows_at_kills, rounds = random.Random(0), [], 0
    while len(rows_at_kills) < 20 or rounds < 2:
        path, status, content = tmp_path / f"round{rounds}" / "toy.csv", -signal.SIGKILL, b""
        while status:
            nursery.start(path)
            status = nursery.end(kill_after=chance.uniform(0, duration / 2))
            assert status in (0, -signal.SIGKILL), nursery.log.read_text()
            if path.exists():
                table = Table(toy(), path)
                assert table.problems == [] and table.missing() == list(RUNS[len(table.rows) :])
                assert path.read_bytes().startswith(content)
            duration *= 0.9 if not status else 1.0 if len(table_of(path)) > len(content) else 1.2
            content = table_of(path)
            if status:
                rows_at_kills.append(len(table.rows) if content else 0)
            assert len(rows_at_kills) < 200, "it makes no progress"
        assert stored(path) == expected
        assert not list(path.parent.glob("*.part"))  # no half file left
        rounds += 1
    assert len(set(rows_at_kills)) >= 3 and set(rows_at_kills) & set(range(1, COUNT))


@pytest.mark.parametrize(
    "how, rows",
    [
        ("die before fsync", 2),
        ("die after fsync", 2),
        ("die before replace", 2),
        ("die after replace", 3),
    ],
)
def test_killed_while_a_row_is_written(path, nursery, tmp_path, how, rows):
    nursery.start(path, how, at=3)
    assert nursery.end() == -signal.SIGKILL
    assert len(list(path.parent.glob("toy.csv.*.part"))) == (rows == 2)
    table, before = Table(toy(), path), path.read_bytes()
    assert table.problems == [] and table.missing() == list(RUNS[rows:])
    assert measured_now(path) == list(RUNS[rows:])
    assert path.read_bytes().startswith(before) and not list(path.parent.glob("*.part"))
    go(tmp_path / "straight.csv")
    assert stored(path) == stored(tmp_path / "straight.csv")


def test_two_processes_share_the_runs_and_a_dead_ones_run_is_taken_over(path, nursery):
    go(path, toy(runs=RUNS[:2]))
    before, recorder = path.read_bytes(), Recorder()
    nursery.start(path, "hold")  # at work on the third
    try:
        go(path, toy(recorder))
        go(path, toy(recorder))
        assert recorder.runs == list(RUNS[3:])
        assert path.read_bytes().startswith(before)
        assert Table(toy(), path).missing() == [RUNS[2]]  # reading needs no lock
    finally:
        status = nursery.end(kill_after=0)
    assert status == -signal.SIGKILL
    assert measured_now(path) == [RUNS[2]]  # the lock's file lies there still, and does not matter


def test_processes_at_work_at_the_same_time_lose_no_row_and_make_none_twice(
    path, nursery, tmp_path
):
    nursery.start(path)
    go(path, toy(lambda run, folder: time.sleep(0.004) or numbers_of(run)))
    assert nursery.end() == 0
    go(tmp_path / "straight.csv")
    assert sorted(stored(path)) == sorted(stored(tmp_path / "straight.csv"))
    assert Table(toy(), path).problems == []


# --- reading and repeating ---------------------------------------------------------------------


def test_results_are_the_stored_rows_in_the_declared_order(shipped):
    """A plain table: numbers to reckon with, NaN or None where nothing was measured."""
    go(shipped, toy(runs=RUNS[5:]))
    go(shipped, toy(runs=RUNS[:3] + RUNS[5:]))
    rows, runs = results("toy"), [*RUNS[:3], *RUNS[5:]]
    assert list(rows.columns) == toy().columns and list(rows.index) == list(range(6))
    assert rows[["rate", "model"]].to_dict("records") == runs
    assert rows.score.tolist() == pytest.approx([numbers_of(r)["score"] for r in runs], rel=1e-4)
    assert rows.curve[2] == pytest.approx(numbers_of(RUNS[2])["curve"], rel=1e-4)
    assert rows.other.isna().all() and json.loads(rows.settings[0])["epochs"] == 3
    assert rows[rows.model == "last"].rate.tolist() == [1.0]
    with pytest.raises(KeyError, match="modle"):
        rows["modle"]


def test_results_of_a_number_that_some_runs_lack(shipped, monkeypatch):
    def measure(run, folder):
        return numbers_of(run) | ({"other": 1.5} if run["model"] == "two" else {"curve": None})

    monkeypatch.setattr(experiments, "EXPERIMENTS", {"toy": toy(measure)})
    go(shipped, toy(measure))
    rows = results("toy")
    assert rows.other.isna().tolist() == [run["model"] != "two" for run in RUNS]
    assert rows.other.mean() == 1.5 and rows.curve.notna().sum() == 2


def test_results_leave_unusable_rows_out_with_a_warning(shipped):
    go(shipped)
    spoil(shipped, 4, BROKEN["no number"][0])
    with pytest.warns(UserWarning, match=r"toy\.csv, line 4: .*kept, not used") as caught:
        rows = results("toy")
    assert len(rows) == COUNT - 1 and len(caught) == 1 and caught[0].filename == __file__


def test_results_that_are_not_there(shipped):
    with pytest.raises(
        FileNotFoundError,
        match="'toy', which has no results yet; call: .* fusion_lib.lab.experiments toy",
    ):
        results("toy")
    with pytest.raises(ValueError, match="experiment is 'tyo'; expected one of: toy, other"):
        results("tyo")
    shipped.parent.mkdir()
    shipped.write_text("x,y\n")
    with pytest.raises(ValueError, match=r"toy\.csv is from another version"):
        results("toy")


def test_again_repeats_one_run_and_leaves_the_file_alone(shipped, monkeypatch):
    go(shipped)
    before, recorder = shipped.read_bytes(), Recorder()
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"toy": toy(recorder)})
    row, numbers = again("toy", rate=1.0, model="two")
    assert (row["rate"], row["model"]) == (1.0, "two") and numbers == numbers_of(RUNS[5])
    assert row["score"] == pytest.approx(numbers["score"], rel=1e-4)
    assert recorder.runs == [RUNS[5]] and recorder.folders == [None]
    assert shipped.read_bytes() == before


@pytest.mark.parametrize(
    "run, count",
    [
        ({"model": "two"}, 2),
        ({"model": "none"}, 0),
        ({"rate": 2.0, "model": "one"}, 0),
        ({"modle": "two"}, 0),
        ({}, COUNT),
    ],
)
def test_again_wants_exactly_one_run(shipped, run, count):
    go(shipped)
    with pytest.raises(
        ValueError,
        match=rf"which is {run}; expected to tell one stored row of 'toy' by .*, it tells {count}",
    ):
        again("toy", **run)


def test_again_wants_a_stored_run(shipped):
    go(shipped, toy(runs=RUNS[:5]))
    with pytest.raises(
        ValueError, match=r"one stored row of 'toy' by \['rate', 'model'\], it tells 0"
    ):
        again("toy", rate=1.0, model="two")


# --- the command -------------------------------------------------------------------------------


def test_list_names_the_experiments(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EXPERIMENTS)
    for line, (name, experiment) in zip(lines, EXPERIMENTS.items()):
        assert line.startswith(f"{name}: {experiment.about}") and line.endswith(
            f"{len(experiment.runs)} runs"
        )


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["tyo"], "experiment is 'tyo'; expected one of: toy, other"),
        (["--lst"], "experiment is '--lst'; expected one of: toy, other"),
        ([], "expected the name of one experiment, or --list"),
        (["toy", "other"], "['toy', 'other']; expected the name of one experiment, or --list"),
        (["--list", "toy"], "['--list', 'toy']; expected the name"),
    ],
)
def test_wrong_calls_are_told_what_is_expected(shipped, capsys, arguments, said):
    assert main(arguments) == 2
    answer = capsys.readouterr()
    assert said in answer.err and answer.out == "" and not shipped.parent.exists()


def test_main_runs_the_named_experiment(shipped, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"other": toy(), "toy": toy(recorder)})
    assert main(["toy"]) == 0
    assert len(stored(shipped)) == 1 + COUNT and recorder.runs == list(RUNS)
    assert set(recorder.folders) == {shipped.parents[1] / "build" / "experiments"}
    assert len(results("toy")) == COUNT  # written where it is read
    assert not shipped.with_name("other.csv").exists()
    assert main(["toy"]) == 0 and len(recorder.runs) == COUNT


def test_main_says_in_one_line_why_it_refuses(shipped, capsys, monkeypatch):
    def measure(run, folder):
        raise RuntimeError("the GPU is gone")

    monkeypatch.setattr(experiments, "EXPERIMENTS", {"toy": toy(measure)})
    assert main(["toy"]) == 2
    assert capsys.readouterr().err.endswith("the GPU is gone\n")  # a bar may stand before it
    shipped.parent.mkdir(exist_ok=True)
    shipped.write_text("x,y\n")
    assert main(["toy"]) == 2
    said = capsys.readouterr().err
    assert (
        "toy.csv is from another version" in said and "'x', 'y'" in said and "Traceback" not in said
    )


@pytest.mark.parametrize("arguments, status", [(["--list"], 0), (["no such experiment"], 2)])
def test_exit_status_of_the_command(monkeypatch, capsys, arguments, status):
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    monkeypatch.delitem(
        sys.modules, "fusion_lib.lab.experiments"
    )  # else runpy warns that it is there
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("fusion_lib.lab.experiments", run_name="__main__")
    assert caught.value.code == status
    said = "".join(capsys.readouterr())
    assert all(name in said for name in EXPERIMENTS)


# --- the declared experiments ------------------------------------------------------------------


def test_fingerprint_follows_the_values_and_not_their_order():
    same = measures.fingerprint({"a": 1, "b": (2, 3)}), measures.fingerprint({"b": [2, 3], "a": 1})
    assert same[0] == same[1] != measures.fingerprint({"a": 1, "b": [2, 4]})
    assert re.fullmatch("[0-9a-f]{16}", same[0])


SEMANTIC = {"epochs": 30, "seed": 0, "model": "semantic only"}


def test_a_run_trains_in_the_folder_of_its_settings(tmp_path, monkeypatch):
    """So does each half of two networks: in that of the single-task run of its seed."""
    folders = []

    def fit(recipe, outputs, seed, folder, build):
        folders.append(folder)
        if folder:  # another process would wait
            with pytest.raises(Timeout):
                FileLock(f"{folder}.lock").acquire(timeout=0)
        return build(outputs), [{"seconds": 1.0}]

    monkeypatch.setattr(measures.recipes, "fit", fit)
    measures.train(SEMANTIC, tmp_path)
    measures.train({**SEMANTIC, "model": "two networks"}, tmp_path)
    measures.train(SEMANTIC, None)
    region = declared.settings({**SEMANTIC, "model": "region only"})
    expected = [tmp_path / measures.fingerprint(s) for s in (declared.settings(SEMANTIC), region)]
    assert folders == [expected[0], *expected, None]


def test_settings_name_a_later_field_only_where_it_is_not_at_its_default():
    """Rows that were stored before the field came are of the same settings as today."""
    names = set(declared.settings(SEMANTIC))
    assert {"alpha", "beta", "weighting", "labels"} < names
    assert not {"pictures", "encoder_factor", "resident", "fold"} & names
    few = {"data": "small photographs", "pictures": 0.1, "start": "discriminative", "fold": 2}
    later = {"pictures": 0.1, "encoder_factor": 0.1, "fold": 2}
    assert later.items() <= declared.settings({**SEMANTIC, **few}).items()


def test_rows_of_a_data_set_whose_class_got_another_name_are_read_as_before(monkeypatch):
    class Renamed(measures.recipes.SCENES.dataset):
        pass

    before = results("tuning")
    renamed = replace(measures.recipes.SCENES, dataset=Renamed)
    monkeypatch.setitem(declared.DATA, "scenes", (renamed, "Scenes"))
    assert results("tuning").equals(before) and len(before) == 18


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_declared_run_is_found_again_in_its_file(tmp_path, name):
    """Cells and settings of each run survive the way through a file, and no two runs share a
    folder."""
    experiment = EXPERIMENTS[name]
    assert all(run.keys() == experiment.runs[0].keys() for run in experiment.runs)
    assert len({measures.fingerprint(experiment.settings(run)) for run in experiment.runs}) == len(
        experiment.runs
    )
    assert len(set(experiment.columns)) == len(experiment.columns)
    stand_in = Experiment(
        "", experiment.runs, experiment.measured, experiment.settings, lambda run, folder: {}
    )
    go(tmp_path / "a.csv", stand_in)
    table = Table(stand_in, tmp_path / "a.csv")
    assert table.problems == [] and table.missing() == []
    assert [{key: row[key] for key in experiment.runs[0]} for row in table.rows.values()] == list(
        experiment.runs
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_stored_results_are_of_this_version_and_whole(name):
    path = data_folder() / "results" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there yet")
    assert Table(EXPERIMENTS[name], path).problems == []


def test_results_of_the_first_edition_are_not_read_as_those_of_the_second(path):
    def experiment(data: str) -> Experiment:
        runs = ({"seed": 0, "model": "hard sharing", "learning_rate": 8e-3},)
        return Experiment(
            "About.",
            runs,
            ("miou",),
            lambda run: declared.settings({**run, "data": data}),
            lambda run, folder: {"miou": 0.7, "minutes": 1.0, "memory_mib": 1.0},
        )

    go(path, experiment("scenes"))
    assert len(Table(experiment("scenes"), path).rows) == 1
    changed = r"changed \(there, now\): {'dataset': \('Scenes', 'Scenes, second edition'\)}"
    with pytest.raises(ValueError, match=changed):
        Table(experiment("second edition"), path)
