"""The declared experiments behind notebooks 06 to 10, their stored rows, and the command that makes
the missing ones (interrupt it as you like): python -m fusion_lib.lab.experiments --list, or NAME"""

import itertools
import sys
import warnings
from functools import partial
from pathlib import Path

import pandas as pd

from fusion_lib import checks
from fusion_lib.engine.files import data_folder
from fusion_lib.lab import changes, declared, measures, rivals, runner
from fusion_lib.lab.declared import STARTS
from fusion_lib.lab.measures import VALIDATION
from fusion_lib.lab.runner import Experiment, Table

COMPARED = ("semantic only", "region only", "two networks", "hard sharing", "attention", "gates")
DESIGNS = ("hard sharing", "own blocks", "own decoders")  # tried out on photographs
TRIED = (*COMPARED[:2], *COMPARED[3:], "affinities")  # "two networks" are the first two
SEEDS, FIVE = (0, 1, 2), (0, 1, 2, 3, 4)  # the latter are folds, too
FUSED = "hard sharing"  # FusionModel's default, the design that the experiments chose
METHODS = ("uncertainty", "DWA", "FAMO", "geometric mean", "random")
METHODS += ("observed sum", "PCGrad", "MGDA", "UPGrad", "Aligned-MTL", "IMTL-G")
SHARINGS = ("own decoders", "hard sharing", "gates", "attention")  # tried out on scenes
TAUGHT = ("true", "outlines", "another scene")  # see `recipes.false_regions`
NAMES_RATES, HIGH_RATES = (2e-3, 4e-3, 8e-3, 1.6e-2), (8e-3, 1.6e-2, 3.2e-2)
SHORT = 3  # epochs of the one run of each experiment that a notebook repeats live
RATES = (1e-3, 3e-3, 9e-3, 2.7e-2)  # tried out on small photographs
ALPHAS = (0.1, 0.25, 0.5, 0.75, 0.9)
BEST_START = "discriminative"  # in `transfer_tuning`, single and fused
FEW = (0.05, 0.1, 0.25, 0.5)  # shares of the photographs
PAIR = ("own decoders", "semantic only")  # fused and single, on small photographs
TWO_STARTS = (BEST_START, "scratch")
PARTLY = (0.1, 0.05, 0.25, 0.5, 1.0)  # shares of the semantic labels
OTHER_TASKS = ("region only", "surfaces only", "three tasks")
# Epochs that take equally long on one thread of a CPU: "time_ratio" in the rows of `rivals`.
EQUALLY_LONG = {"semantic only": 10, "own decoders": 8, "Unet": 9, "FPN": 12, "LRASPP": 14}
CURVES = tuple(f"{metric}_{change}" for metric in changes.MEASURED for change in changes.CHANGES)


def _grid(**values) -> tuple[dict, ...]:
    """One run for each combination; what is no tuple is the same in all."""
    lists = [value if isinstance(value, tuple) else (value,) for value in values.values()]
    return tuple(dict(zip(values, combination)) for combination in itertools.product(*lists))


def _small(**values) -> tuple[dict, ...]:
    """A grid on small photographs; some models weigh the region task twice."""
    common = {"data": "small photographs", "epochs": 6, "seed": 0, "beta": 1.0}
    own = dict.fromkeys(("own decoders", "three tasks"), {"beta": 2.0})
    return tuple(run | own.get(run["model"], {}) for run in _grid(**(common | values)))


def _experiment(about, runs, measure, measured, settings=declared.settings) -> Experiment:
    return Experiment(about, runs, measured, settings, partial(measures.train_and, measure))


_tuning = partial(_experiment, measure=measures.validation_scores, measured=VALIDATION)
_test = partial(_experiment, measure=measures.full_test_scores, measured=tuple(measures.TEST))
_main = partial(_experiment, measure=measures.main_test_scores, measured=tuple(measures.MAIN))
_scenes, _photographs = partial(_grid, data="scenes"), partial(_grid, data="photographs")
_whole = partial(_small, data="whole photographs")


def _worth(about, runs, measure) -> Experiment:
    """Of what a label is worth; all runs of a seed before the next one's."""
    runs = tuple(sorted(runs, key=lambda run: run["seed"]))
    return _experiment(about, runs, measure, (*measures.WORTH, "best_epoch"))


def _second(**values) -> tuple[dict, ...]:
    """A grid on scenes of the second edition."""
    common = {"data": "second edition", "regions": "true", "epochs": 30, "beta": 1.0}
    return _grid(**(common | {"weight_decay": 0.01, "seed": (0, 1)} | values))


def _first(**values) -> tuple[dict, ...]:
    """A grid on scenes of the first edition, at the rates of `tuning`."""
    common = {"data": "scenes", "regions": "true", "epochs": 30, "labels": 1.0, "seed": 0}
    return _grid(**(common | {"learning_rate": 8e-3} | values))


EXPERIMENTS = {
    "tuning": _tuning(
        "Learning rates tried out on validation scenes, the same number for every model.",
        _grid(seed=0, learning_rate=(4e-3, 8e-3, 1.6e-2), model=TRIED),
    ),
    "designs": _tuning(
        "Learning rates, designs and beta tried out on validation pictures of the photographs.",
        _photographs(epochs=6, seed=0, learning_rate=(2e-3, 4e-3), beta=1.0, model=COMPARED[:2])
        + _photographs(epochs=6, seed=0, learning_rate=2e-3, beta=(1.0, 2.0), model=DESIGNS),
        measured=(*VALIDATION, "covering", "miou_fused"),
        measure=measures.decoded_validation_scores,
    ),
    "worth_tuning": _worth(
        "Second edition: rates, beta, weight decay and length, tried out on validation scenes.",
        _second(beta=2.0, learning_rate=HIGH_RATES, model="own decoders", regions=TAUGHT[:2])
        + _second(learning_rate=NAMES_RATES, model="semantic only")
        + _second(learning_rate=HIGH_RATES, model="region only")
        + _second(beta=2.0, learning_rate=HIGH_RATES, model=SHARINGS[1:])
        + _second(beta=(1.0, 4.0), learning_rate=HIGH_RATES[1], model="own decoders")
        + _second(beta=1.0, learning_rate=HIGH_RATES[:2], model=SHARINGS[1:])
        + _second(beta=1.0, learning_rate=HIGH_RATES[1], model="own decoders", regions="outlines")
        + _second(beta=2.0, learning_rate=HIGH_RATES, model="own decoders", regions=TAUGHT[2])
        + _second(learning_rate=4e-3, weight_decay=(0.0, 0.05), model="semantic only")
        + _second(learning_rate=1.6e-2, weight_decay=(0.0, 0.05), model="region only")
        + _second(epochs=60, learning_rate=NAMES_RATES[1:], model="semantic only")
        # Where seed 0 was best at the highest rate or beta, the next ones, too.
        + _second(beta=2.0, learning_rate=6.4e-2, model=SHARINGS[:2])
        + _second(beta=2.0, learning_rate=6.4e-2, model="own decoders", regions="outlines")
        + _second(learning_rate=6.4e-2, model="region only")
        + _second(beta=(4.0, 8.0), learning_rate=3.2e-2, model="own decoders"),
        measure=partial(measures.worth_scores, split="val"),
    ),
    "first_edition": _worth(
        "First edition: twice as long, another scene's regions, outlines of the names, few names.",
        _first(seed=tuple(range(5)), model=FUSED, regions=TAUGHT[1])
        + _first(model=FUSED, regions=TAUGHT[2])
        + _first(epochs=60, learning_rate=(4e-3, 8e-3), model="semantic only")
        + _first(seed=SEEDS, labels=0.1, model=FUSED, regions=TAUGHT[1]),
        measures.worth_scores,
    ),
    "transfer_tuning": _tuning(
        "Small photographs: learning rates tried out for every start, single and fused.",
        _small(start=tuple(STARTS)[:4], learning_rate=RATES, model=PAIR)
        + _small(start="full", learning_rate=(3e-4, *RATES[:3]), model=PAIR),
    ),
    "tasks_tuning": _tuning(
        "Small photographs: learning rates tried out for other tasks alone and three together.",
        _small(start=BEST_START, learning_rate=RATES, model=OTHER_TASKS),
        measured=(*VALIDATION, "val_miou_surfaces"),
    ),
    "full_resolution": _test(
        "Photographs at their own size, five folds, single and fused. For a GPU.",
        _whole(epochs=22, fold=FIVE, start=TWO_STARTS, model=(*COMPARED[:2], "own decoders")),
    ),
    "rivals_tuning": _tuning(
        "Small photographs: learning rates tried out for decoders of other libraries.",
        _small(start=BEST_START, learning_rate=(*RATES, 8.1e-2), model=rivals.DECODERS),
    ),
    "transfer": _main(
        "Small photographs, fold 0: five ways to start, single and fused.",
        _small(seed=SEEDS, start=tuple(STARTS), model=PAIR)
        + _small(seed=SEEDS, start=BEST_START, model="region only"),
        measured=(*measures.MAIN, "moved", "put_back"),
        measure=measures.scores_and_encoder_changes,
    ),
    "few_photographs": _main(
        "As `transfer`, with a share of the photographs: four starts, single and fused.",
        _small(seed=SEEDS, pictures=FEW, start=("frozen", BEST_START), model=PAIR)
        + _small(seed=SEEDS, pictures=FEW[::2], start=("partly frozen", "full"), model=PAIR),
    ),
    "folds": _main(
        "As `transfer`, folds 1 to 4: two starts, single and fused.",
        _small(start=TWO_STARTS[::-1], model=PAIR, fold=FIVE[1:])
        + _small(start=BEST_START, model="region only", fold=FIVE[1:]),
    ),
    "surfaces": _main(
        "As `transfer`: the surfaces as a third task, and alone.",
        _small(seed=SEEDS, start=BEST_START, model=OTHER_TASKS[1:]),
    ),
    "rivals": _experiment(
        "Small photographs: decoders of other libraries on the same encoder, in equal time.",
        tuple(
            run
            for model, epochs in EQUALLY_LONG.items()
            for run in _small(epochs=epochs, seed=SEEDS, start=BEST_START, model=model)
        ),
        measures.score_and_speed,
        ("miou", "val_curve", "pictures_a_second", "time_ratio", "parameters"),
    ),
    "fusion": _test(
        "Single tasks, two networks and the fused designs on scenes, five seeds each.",
        _grid(epochs=30, seed=FIVE, model=COMPARED) + _grid(epochs=SHORT, seed=0, model=FUSED),
    ),
    "heads": _test(
        "As `fusion`, with the region task learned as affinities.",
        _grid(epochs=30, seed=FIVE, model="affinities"),
    ),
    "photographs": _test(
        "Single tasks, two networks and fused models on photographs, fold 0, three seeds.",
        _photographs(epochs=16, seed=SEEDS, beta=1.0, model=COMPARED[:3])
        + _photographs(epochs=22, seed=SEEDS, beta=2.0, model="own decoders")
        + _photographs(epochs=22, seed=0, beta=1.0, model=COMPARED[:2])
        + _photographs(epochs=16, seed=SEEDS, beta=2.0, model="own blocks")
        + _photographs(epochs=16, seed=0, beta=1.0, model=FUSED),
    ),
    "labels": _test(
        "A share of the semantic labels, all region labels; scenes, three seeds each.",
        _grid(epochs=30, seed=SEEDS, labels=PARTLY, model=("semantic only", FUSED))
        + _grid(epochs=SHORT, seed=0, labels=0.1, model=FUSED),
    ),
    "weighting": _test(
        "Fixed alpha, beta = 1 - alpha, and methods that weigh by themselves; scenes, three seeds.",
        _grid(epochs=30, seed=SEEDS, weighting="sum", alpha=ALPHAS, model=FUSED)
        + _grid(epochs=30, seed=SEEDS, weighting=METHODS, alpha=0.5, model=FUSED)
        + _grid(epochs=SHORT, seed=0, weighting="observed sum", alpha=0.5, model=FUSED),
        measured=(*measures.TEST, *measures.SERIES),
    ),
    "alphas": _tuning(
        "alpha, with beta = 1 - alpha, tried out on validation scenes: the plain sum's tuning.",
        _grid(epochs=30, seed=0, weighting="sum", alpha=ALPHAS, model=FUSED),
    ),
    "robustness": _experiment(
        "Single and fused, trained with and without changes of the light, tested under many.",
        _scenes(epochs=30, seed=SEEDS, light=(0.2, 0.0), beta=1.0, model=(*COMPARED[:2], FUSED))
        + _photographs(epochs=16, seed=SEEDS, light=0.3, beta=1.0, model=COMPARED[:2])
        + _photographs(epochs=16, seed=SEEDS, light=0.3, beta=2.0, model="own blocks")
        + _scenes(epochs=SHORT, seed=0, light=0.2, beta=1.0, model=FUSED),
        measures.scores_under_changes,
        (*CURVES, "border_pixels", "border_wrong", "border_wrong_fused"),
        declared.settings_and_changes,
    ),
}


def results(name: str) -> pd.DataFrame:
    """The stored rows of a declared experiment, in the declared order: one row a run, numbers as
    float, series as lists, NaN or None where not measured. A warning names the lines that cannot be
    used. Raises ValueError for an unknown experiment, or a results file of another version of it,
    FileNotFoundError where nothing was stored yet."""
    table = _table(name)
    for problem in table.problems:
        warnings.warn(problem, stacklevel=2)
    rows = [table.rows[key] for key in table.declared if key in table.rows]
    return pd.DataFrame(rows, columns=table.experiment.columns)


def again(name: str, **which) -> tuple[dict, dict]:
    """Make one stored row again, leaving the file alone; returns the row and the new numbers.
    Raises ValueError unless just one row belongs to a run with the entries `which`, for example
    epochs=3."""
    table = _table(name)
    runs = {key: run for key, run in table.declared.items() if which.items() <= run.items()}
    found = [key for key in runs if key in table.rows]
    expected = f"to tell one stored row of {name!r} by {list(table.experiment.runs[0])}"
    checks.expect(len(found) == 1, "which", which, f"{expected}, it tells {len(found)}")
    return table.rows[found[0]], table.experiment.measure(runs[found[0]], None)


def _table(name: str) -> Table:
    path = _path(name)
    if not path.is_file():
        command = f"python -m fusion_lib.lab.experiments {name}"
        raise FileNotFoundError(f"name is {name!r}, which has no results yet; call: {command}")
    return Table(EXPERIMENTS[name], path)


def _path(name: str) -> Path:
    checks.expect(name in EXPERIMENTS, "experiment", name, f"one of: {', '.join(EXPERIMENTS)}")
    return data_folder() / "results" / f"{name}.csv"


def main(arguments: list[str]) -> int:
    """Make the missing rows of the named experiment, or list all; returns the exit status."""
    if arguments == ["--list"]:
        print(
            *(f"{name}: {e.about} {len(e.runs)} runs" for name, e in EXPERIMENTS.items()), sep="\n"
        )
        return 0
    expected = "the name of one experiment, or --list"
    try:
        checks.expect(len(arguments) == 1, "NAME", arguments, expected)
        path = _path(arguments[0])
        runner.make_missing(EXPERIMENTS[path.stem], path, runner.ROOT / "build" / "experiments")
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
