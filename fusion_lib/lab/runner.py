"""Makes the missing rows of a results file, one row a declared run, each with what made it. A kill
leaves the old or the new file, with whole rows."""

from __future__ import annotations

import csv
import io
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

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fusion_lib.engine.files import write_whole

ROOT = Path(__file__).parents[2]
COST = ("minutes", "memory_mib")
PROVENANCE = ("commit", "versions", "device", *COST, "settings")
NUMERIC = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "torchjd", "mwatershed")
PACKAGES = (*NUMERIC, "efficientnet-lite-pytorch", "segmentation-models-pytorch")


@dataclass(frozen=True)
class Experiment:
    """A declared list of runs.

    `settings` makes of a run everything that decides its result, as JSON can hold it; a stored row
    made with others is refused. `measure` makes of a run, and of a folder for what it must not lose
    (or None), {measured name: number or list of numbers, "minutes": ..., "memory_mib": ...}.
    """

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
        if len(self.declared) < len(experiment.runs):
            raise ValueError(f"{path.stem} declares two runs that look the same in five digits")
        self.rows: dict[tuple, dict] = {}
        self.problems: list[str] = []
        self.content = path.read_bytes() if path.exists() else None  # rows are kept as they are
        if self.content is not None:
            text = self.content.decode(errors="surrogateescape").removesuffix("\n")
            self._read(*map(_cells, text.split("\n")))

    def key(self, run: dict) -> tuple:
        """What tells a run from the others, as the file spells it."""
        return tuple(_text(run[name]) for name in self.experiment.runs[0])

    def missing(self) -> list[dict]:
        """The declared runs without a row that can be used."""
        return [run for key, run in self.declared.items() if key not in self.rows]

    def append(self, run: dict, numbers: dict) -> None:
        """Add a row and write the whole file anew, beside and then in its place. Raises ValueError,
        with nothing written, if numbers holds what is not declared, or is no number."""
        if unknown := sorted(set(numbers) - {*self.experiment.measured, *COST}):
            raise ValueError(f"numbers holds {unknown}, which the experiment does not declare")
        settings = json.dumps(self.experiment.settings(run), sort_keys=True)
        values = run | numbers | provenance() | {"settings": settings}
        row = {column: _text(values.get(column)) for column in self.experiment.columns}
        try:
            stored = row | run | self._numbers(row)
        except ValueError as error:
            raise ValueError(f"numbers holds what is no number ({error})") from None
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if self.content is None:
            writer.writerow(row)
        elif not self.content.endswith(b"\n"):
            buffer.write("\n")
        writer.writerow(row.values())
        content = (self.content or b"") + buffer.getvalue().encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, content)
        self.content, self.rows[self.key(run)] = content, stored

    def _read(self, header: list[str], *lines: list[str]) -> None:
        version = "is from another version of the experiment"
        expected, advice = self.experiment.columns, "move the file away and run again"
        if header != expected:
            gone, new = sorted(set(header) - set(expected)), sorted(set(expected) - set(header))
            columns = f"columns {gone} are no longer declared, {new} are new (or the order differs)"
            raise ValueError(f"{self.path.name} {version}: {columns}; {advice}")
        for number, cells in enumerate(lines, 2):
            where = f"{self.path.name}, line {number}"
            try:
                key, row, there = self._parse(cells)
            except ValueError as error:
                self.problems.append(f"{where}: {error}; kept, not used")
                continue
            now = json.loads(json.dumps(self.experiment.settings(self.declared[key])))
            if there != now:
                absent = "not there"
                pairs = {k: (there.get(k, absent), now.get(k, absent)) for k in {**there, **now}}
                changed = {k: pairs[k] for k in sorted(pairs) if pairs[k][0] != pairs[k][1]}
                changes = f"changed (there, now): {changed}"
                raise ValueError(f"{where}, {version}; {changes}; {advice}")
            self.rows[key] = row

    def _parse(self, cells: list[str]) -> tuple[tuple, dict, dict]:
        """Key, row and settings of a line."""
        columns = self.experiment.columns
        if len(cells) != len(columns):
            raise ValueError(f"{len(cells)} cells where {len(columns)} are expected")
        row = dict(zip(columns, cells))
        key = self.key(row)
        if key not in self.declared:
            raise ValueError(f"a run that is not declared: {dict(zip(columns, key))}")
        if key in self.rows:
            raise ValueError("the same run as an earlier line")
        try:
            numbers, settings = self._numbers(row), json.loads(row["settings"])
        except ValueError as error:
            raise ValueError(f"a cell cannot be read ({error})") from None
        if not isinstance(settings, dict):
            raise ValueError("settings is no JSON object")
        return key, row | self.declared[key] | numbers, settings

    def _numbers(self, row: dict[str, str]) -> dict:
        return {name: _number(row[name]) for name in (*self.experiment.measured, *COST)}


def make_missing(experiment: Experiment, path: Path, scratch: Path) -> None:
    """Make the rows that a results file lacks; `scratch` is a folder for unfinished runs and
    trained weights. Raises RuntimeError while another runner works on the file, ValueError as
    `Table` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_suffix(".lock")).acquire(timeout=0)
    except Timeout:
        busy = f"another runner is at work on {path.name}; wait until it ends, or stop it"
        raise RuntimeError(busy) from None
    with lock:
        for part in path.parent.glob(f"{path.name}.*.part"):
            part.unlink()  # of a runner that was killed
        table = Table(experiment, path)
        print(*table.problems, sep="\n", end="\n" * bool(table.problems), file=sys.stderr)
        provenance()  # remembers the commit of the code that runs; the files may change meanwhile
        count, missing = len(experiment.runs), table.missing()
        with tqdm(total=count, initial=count - len(missing), desc=path.stem, unit="run") as bar:
            for run in missing:
                bar.set_postfix_str(" ".join(map(str, run.values())))
                table.append(run, experiment.measure(run, scratch))
                bar.update()


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
