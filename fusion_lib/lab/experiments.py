"""Named experiments whose every number can be made again: declared runs, one row a run in
data/results/NAME.csv.

    python -m fusion_lib.lab.experiments --list
    python -m fusion_lib.lab.experiments NAME      # runs what is missing; interrupt and call again as
    you like

A file grows by whole rows: it is written beside and swapped in, so that a kill leaves the old or
the new one. Rows that
are there are not run again. Long runs go on from their last epoch.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fusion_lib.engine.files import data_folder, write_whole

COST = ("minutes", "memory_mib")
PROVENANCE = ("commit", "versions", "device", *COST, "settings")
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-image",
    "torchjd",
    "mwatershed",
    "efficientnet-lite-pytorch",
    "segmentation-models-pytorch",
)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Experiment:
    """A declared grid.

    Args:
        about: one sentence.
        runs: one dict a run; all have the same keys, which together tell the runs apart.
        measured: names of the numbers that `measure` returns; it may leave some out.
        settings: run -> everything that decides its result, as JSON can hold it; a stored row made
            with others is refused.
        measure: run, folder for what it must not lose -> {measured name: number, "minutes": ...,
            "memory_mib": ...}.
    """

    about: str
    runs: tuple[dict, ...]
    measured: tuple[str, ...]
    settings: Callable[[dict], dict]
    measure: Callable[[dict, Path], dict]

    @property
    def columns(self) -> list[str]:
        """Header of the results file: what tells runs apart, what is measured, and how it came
        about."""
        return [*self.runs[0], *self.measured, *PROVENANCE]


class Table:
    """The results file of an experiment: which runs are done, and what is wrong with it.

    Raises:
        ValueError: the file has other columns, or a declared run was made with other settings; says
            what changed. Or two declared runs would have the same cells.
    """

    def __init__(self, experiment: Experiment, path: Path):
        self.experiment, self.path = experiment, Path(path)
        self.declared = {self.key(run): run for run in experiment.runs}
        if len(self.declared) < len(experiment.runs):
            raise ValueError(
                f"{self.path.stem} declares two runs that look the same in five digits"
            )
        self.content = b""  # of the file; its rows are kept as they are
        self.rows: dict[tuple, dict] = {}  # run's key -> its row
        self.problems: list[str] = []
        if self.path.exists():
            self.content = self.path.read_bytes()
            self._read()

    def key(self, run: dict) -> tuple:
        """What tells a run from the others, as the file spells it."""
        return tuple(_text(run[name]) for name in self.experiment.runs[0])

    def missing(self) -> list[dict]:
        """The declared runs without a row that can be used."""
        return [run for run in self.experiment.runs if self.key(run) not in self.rows]

    def append(self, run: dict, numbers: dict) -> None:
        """Add a row and write the whole file anew, beside and then in its place.

        Raises:
            ValueError: numbers holds what is not declared, or what is no number; nothing was
                written.
        """
        unknown = set(numbers) - {*self.experiment.measured, *COST}
        if unknown:
            raise ValueError(
                f"numbers holds {sorted(unknown)}, which the experiment does not declare as"
                " measured"
            )
        values = {
            **run,
            **numbers,
            **_provenance(),
            "settings": _json(self.experiment.settings(run)),
        }
        row = {column: _text(values.get(column)) for column in self.experiment.columns}
        try:
            stored = self._numbers(row)
        except ValueError as error:
            raise ValueError(f"numbers holds what is no number ({error})") from None
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if not self.content:
            writer.writerow(self.experiment.columns)
        elif not self.content.endswith(b"\n"):
            buffer.write("\n")
        writer.writerow(row.values())
        content = self.content + buffer.getvalue().encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, content)
        self.content = content
        self.rows[self.key(run)] = {**row, **run, **stored}

    def _read(self) -> None:
        first, *lines = self.content.decode(errors="surrogateescape").removesuffix("\n").split("\n")
        header = _cells(first)
        if header != self.experiment.columns:
            gone, new = (
                set(header) - set(self.experiment.columns),
                set(self.experiment.columns) - set(header),
            )
            raise ValueError(
                f"{self.path.name} is from another version of the experiment: columns"
                f" {sorted(gone)} are no longer declared, {sorted(new)} are new (or the order"
                " differs); move the file away and run again"
            )
        for number, line in enumerate(lines, 2):
            problem = self._take(_cells(line), number)
            if problem:
                self.problems.append(f"{self.path.name}, line {number}: {problem}; kept, not used")

    def _take(self, cells: list[str], number: int) -> str | None:
        columns = self.experiment.columns
        if len(cells) != len(columns):
            return f"{len(cells)} cells where {len(columns)} are expected"
        row = dict(zip(columns, cells))
        key = self.key(row)
        if key not in self.declared:
            return f"a run that is not declared: {dict(zip(self.experiment.runs[0], key))}"
        try:
            numbers, settings = self._numbers(row), json.loads(row["settings"])
            if not isinstance(settings, dict):
                raise ValueError("settings is no JSON object")
        except ValueError as error:
            return f"a cell cannot be read ({error})"
        if key in self.rows:
            return "the same run as an earlier line"
        now = json.loads(_json(self.experiment.settings(self.declared[key])))
        if settings != now:
            pairs = {
                k: (settings.get(k, "not there"), now.get(k, "not there"))
                for k in sorted({*settings, *now})
            }
            changed = {k: pair for k, pair in pairs.items() if pair[0] != pair[1]}
            raise ValueError(
                f"{self.path.name}, line {number}, is from another version of the experiment; "
                f"changed (there, now): {changed}; move the file away and run again"
            )
        self.rows[key] = {**row, **self.declared[key], **numbers}
        return None

    def _numbers(self, row: dict[str, str]) -> dict:
        return {name: _number(row[name]) for name in (*self.experiment.measured, *COST)}


def run(experiment: Experiment, path: Path, scratch: Path) -> None:
    """Run what is missing. One runner a file at a time.

    Args: path, the results file; scratch, a folder for unfinished runs and trained weights.

    Raises:
        RuntimeError: another runner is at work on the same file.
        ValueError: as `Table`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_suffix(".lock")).acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"another runner is at work on {path.name}; wait until it ends, or stop it"
        ) from None
    with lock:
        table = Table(experiment, path)
        for problem in table.problems:
            print(problem, file=sys.stderr)
        todo = table.missing()
        _provenance()  # remembers the commit of the code that runs; the files may change meanwhile
        count = len(experiment.runs)
        with tqdm(total=count, initial=count - len(todo), desc=path.stem, unit="run") as bar:
            for declared in todo:
                bar.set_postfix_str(" ".join(map(str, declared.values())))
                table.append(
                    declared,
                    experiment.measure(
                        declared, scratch / fingerprint(experiment.settings(declared))
                    ),
                )
                bar.update()


def fingerprint(settings: dict) -> str:
    """A short name for a folder that belongs to these settings."""
    return hashlib.sha256(_json(settings).encode()).hexdigest()[:16]


def results(name: str) -> list[dict]:
    """The stored rows of a declared experiment, numbers as float (None where not measured), in the
    declared order.

    Rows that cannot be used are left out, with a warning that names their lines.

    Raises:
        ValueError: unknown experiment, or a results file of another version of it.
        FileNotFoundError: nothing was stored yet.
    """
    experiment = _named(name)
    path = data_folder() / "results" / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"name is {name!r}, which has no results yet; call: python -m fusion_lib.lab.experiments"
            f" {name}"
        )
    table = Table(experiment, path)
    for problem in table.problems:
        warnings.warn(problem, stacklevel=2)
    return [table.rows[table.key(run)] for run in experiment.runs if table.key(run) in table.rows]


def again(name: str, **run) -> tuple[dict, dict]:
    """Run one declared run now, leaving the file alone; returns the stored row and the new numbers.

    Raises:
        ValueError: no stored row, or more than one, matches `run`.
    """
    rows = select(results(name), **run)
    if len(rows) != 1:
        raise ValueError(
            f"run is {run}; expected to match one stored row of {name!r}, it matches {len(rows)}"
        )
    experiment = _named(name)
    declared = next(
        r for r in experiment.runs if all(rows[0][key] == value for key, value in r.items())
    )
    return rows[0], experiment.measure(declared, None)


def select(rows: list[dict], **values) -> list[dict]:
    """The rows whose columns have these values.

    Raises:
        ValueError: the rows have no such column.
    """
    unknown = set(values) - set(rows[0]) if rows else set()
    if unknown:
        raise ValueError(
            f"values names {sorted(unknown)}; the rows have the columns {list(rows[0])}"
        )
    return [row for row in rows if all(row[column] == value for column, value in values.items())]


def _named(name: str) -> Experiment:
    from fusion_lib.lab.grids import EXPERIMENTS

    if name not in EXPERIMENTS:
        raise ValueError(f"experiment is {name!r}; expected one of: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


@cache
def _provenance() -> dict[str, str]:
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            pass
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return {"commit": _commit(), "versions": ", ".join(versions), "device": device}


def _commit() -> str:
    """Abbreviated commit of the checkout, with + where the code differs from it; empty outside a
    checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "fusion_lib") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def _json(value) -> str:
    return json.dumps(value, sort_keys=True, default=lambda v: getattr(v, "__name__", str(v)))


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
    return None if not numbers else numbers[0] if len(numbers) == 1 else numbers


def main(arguments: list[str]) -> int:
    """Run the named experiment, or list all; returns the exit status."""
    from fusion_lib.lab.grids import EXPERIMENTS

    if arguments == ["--list"]:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name}: {experiment.about} {len(experiment.runs)} runs")
        return 0
    try:
        if len(arguments) != 1:
            raise ValueError(
                f"arguments are {arguments}; expected the name of one experiment, or --list"
            )
        run(
            _named(arguments[0]),
            data_folder() / "results" / f"{arguments[0]}.csv",
            ROOT / "build" / "experiments",
        )
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
