"""Makes the missing rows of a results file, one row a declared run, each with what made it. A kill
leaves the old or the new file, with whole rows."""

import csv
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fusion_lib import checks
from fusion_lib.engine.files import write_whole

ROOT = Path(__file__).parents[2]
COST = ("minutes", "memory_mib")
PROVENANCE = ("commit", "versions", "device", *COST, "settings")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "torchjd", "mwatershed")
PACKAGES += ("efficientnet-lite-pytorch", "segmentation-models-pytorch")


@dataclass(frozen=True)
class Experiment:
    """A declared list of runs.

    `settings` makes of a run everything that decides its result, as JSON can hold it; a stored row
    made with others is refused. `measure` makes of a run, and of a folder for what it must not lose
    (or None), {measured name: number or list of numbers, "minutes": ..., "memory_mib": ...}."""

    about: str  # one sentence
    runs: tuple[dict, ...]  # all have the same keys, which together tell the runs apart
    measured: tuple[str, ...]  # names of the numbers of `measure`, which may leave some out
    settings: Callable[[dict], dict]
    measure: Callable[[dict, Path | None], dict]

    @property
    def columns(self) -> list[str]:
        """Header of the results file: what tells runs apart, what is measured, what made it."""
        return [*self.runs[0], *self.measured, *PROVENANCE]


class Table:
    """The results file of an experiment: `rows` that are done, by key, and `problems` in words.
    Raises ValueError if two declared runs would have the same cells or, with what changed, if the
    file has other columns, or a declared run was made with other settings."""

    def __init__(self, experiment: Experiment, path: Path):
        self.experiment, self.path = experiment, path
        self.declared = {self.key(run): run for run in experiment.runs}
        alike = f"{path.stem} declares two runs that look the same in five digits"
        checks.require(len(self.declared) == len(experiment.runs), alike)
        self.read()

    def key(self, run: dict) -> tuple:
        """What tells a run from the others, as the file spells it."""
        return tuple(_text(run[name]) for name in self.experiment.runs[0])

    def missing(self) -> list[dict]:
        """The declared runs without a row that can be used."""
        return [run for key, run in self.declared.items() if key not in self.rows]

    def append(self, run: dict, numbers: dict) -> None:
        """Add a row to the file as it is now, written anew beside it and then in its place. Raises
        ValueError, with nothing written, if numbers holds what is not declared, or is no number."""
        unknown = sorted(set(numbers) - {*self.experiment.measured, *COST})
        undeclared = f"numbers holds {unknown}, which the experiment does not declare"
        checks.require(not unknown, undeclared)
        settings = {"settings": json.dumps(self.experiment.settings(run), sort_keys=True)}
        values = run | numbers | provenance() | settings
        row = {column: _text(values.get(column)) for column in self.experiment.columns}
        table = pd.DataFrame([row])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            self.read()
            try:
                key, stored, _ = self._parse([*row.values()])
            except ValueError as error:
                raise ValueError(f"numbers holds what is no number ({error})") from None
            text = table.to_csv(index=False, header=not self.lines, lineterminator="\n")
            for part in self.path.parent.glob(f"{self.path.name}.*.part"):
                part.unlink()  # of a runner that was killed
            content = "".join(f"{line}\n" for line in self.lines) + text
            write_whole(self.path, content.encode(errors="surrogateescape"))
            self.rows[key] = stored

    def read(self) -> None:
        """Read the file anew: others may have added rows. Raises ValueError as the class does."""
        self.rows, self.problems, self.lines = {}, [], []  # lines are kept as they are
        if not self.path.exists():
            return
        text = self.path.read_bytes().decode(errors="surrogateescape")
        self.lines = text.removesuffix("\n").split("\n")
        header, *lines = map(_cells, self.lines)
        version = "is from another version of the experiment"
        expected, advice = self.experiment.columns, "move the file away and run again"
        gone, new = sorted(set(header) - set(expected)), sorted(set(expected) - set(header))
        columns = f"columns {gone} are no longer declared, {new} are new (or the order differs)"
        other = f"{self.path.name} {version}: {columns}; {advice}"
        checks.require(header == expected, other)
        for number, cells in enumerate(lines, 2):
            where = f"{self.path.name}, line {number}"
            try:
                key, row, there = self._parse(cells)
            except ValueError as error:
                self.problems.append(f"{where}: {error}; kept, not used")
                continue
            now = json.loads(json.dumps(self.experiment.settings(self.declared[key])))
            names, absent = sorted({*there, *now}), "not there"
            pairs = {name: (there.get(name, absent), now.get(name, absent)) for name in names}
            changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
            other = f"{where}, {version}; changed (there, now): {changed}; {advice}"
            checks.require(not changed, other)
            self.rows[key] = row

    def _parse(self, cells: list[str]) -> tuple[tuple, dict, dict]:
        """Key, row and settings of a line."""
        columns = self.experiment.columns
        count = f"{len(cells)} cells where {len(columns)} are expected"
        checks.require(len(cells) == len(columns), count)
        row = dict(zip(columns, cells))
        key = self.key(row)
        undeclared = f"a run that is not declared: {dict(zip(columns, key))}"
        checks.require(key in self.declared, undeclared)
        checks.require(key not in self.rows, "the same run as an earlier line")
        measured = (*self.experiment.measured, *COST)
        try:
            numbers = {name: _number(row[name]) for name in measured}
            settings = json.loads(row["settings"])
        except ValueError as error:
            raise ValueError(f"a cell cannot be read ({error})") from None
        checks.require(isinstance(settings, dict), "settings is no JSON object")
        return key, row | self.declared[key] | numbers, settings


def make_missing(experiment: Experiment, path: Path, scratch: Path) -> None:
    """Make the rows that a results file lacks; `scratch` is a folder for unfinished runs and
    trained weights. Several runners may share a file: each makes the runs that none of the others
    is at work on. Raises ValueError as `Table` does."""
    for folder in (path.parent, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    provenance()  # remembers the commit of the code that runs; the files may change meanwhile
    table, count = Table(experiment, path), len(experiment.runs)
    print(*table.problems, sep="\n", end="\n" * bool(table.problems), file=sys.stderr)
    with tqdm(total=count, initial=len(table.rows), desc=path.stem, unit="run") as bar:
        for run in table.missing():
            try:
                lock = FileLock(scratch / f"{path.stem}_{fingerprint(run)}.lock").acquire(timeout=0)
            except Timeout:
                continue  # another runner is at work on it
            with lock:
                table.read()
                if run in table.missing():
                    bar.set_postfix_str(" ".join(map(str, run.values())))
                    table.append(run, experiment.measure(run, scratch))
                    bar.update(len(table.rows) - bar.n)
    table.read()
    if left := len(table.missing()):
        print(f"{left} runs are in the hands of other runners", file=sys.stderr)


def fingerprint(settings: dict) -> str:
    """A short name for a file or folder that belongs to these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@cache
def provenance() -> dict[str, str]:
    """Commit (+ where the code differs from it, empty outside a checkout), versions of the packages
    that decide a result, and device."""
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    try:
        dirty = _git("status", "--porcelain", "--", "fusion_lib")
        commit = _git("rev-parse", "--short=10", "HEAD") + "+" * bool(dirty)
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    cpu = f"CPU, {torch.get_num_threads()} threads"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {"commit": commit, "versions": ", ".join(versions), "device": device}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return [line]


def _text(value) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(_text(v) or "nan" for v in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | list[float] | None:
    """A stored cell: nothing, one number, or several with spaces between them."""
    numbers = [float(part) for part in text.split()]
    return numbers if len(numbers) > 1 else next(iter(numbers), None)
