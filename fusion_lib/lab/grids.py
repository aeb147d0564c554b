"""The declared experiments behind notebooks 06 to 10: which runs there are. What is measured on
each, `measures` says."""

from __future__ import annotations

import itertools

from fusion_lib.lab import changes, rivals
from fusion_lib.lab.experiments import Experiment
from fusion_lib.lab.measures import (
    REGION,
    SEMANTIC,
    SERIES,
    STARTS,
    VALIDATION,
    after_transfer,
    beside_rivals,
    changed_settings,
    decoded_on_validation,
    on_few_test,
    on_test,
    on_validation,
    settings,
    under_changes,
)

COMPARED = ("semantic only", "region only", "two networks", "hard sharing", "attention", "gates")
DESIGNS = ("hard sharing", "own blocks", "own decoders")  # tried out on photographs
TRIED = (
    "semantic only",
    "region only",
    "hard sharing",
    "attention",
    "gates",
    "affinities",
)  # "two networks" are the first two
FUSED = "hard sharing"  # FusionModel's default, the design that the experiments chose
SINGLE_AND_FUSED = ("semantic only", "region only", FUSED)
SHORT = 3  # epochs of the one run of each experiment that a notebook repeats live
DECODED = ("covering", "miou_fused")
JOINT = (
    "miou_voted",
    "pq",
    "miou_fused",
    "iou_fused",
    "covering_fused",
    "pq_fused",
    "edge_weight",
    "vote_weight",
)
METHODS = (
    "uncertainty",
    "DWA",
    "FAMO",
    "geometric mean",
    "random",
    "observed sum",
    "PCGrad",
    "MGDA",
    "UPGrad",
    "Aligned-MTL",
    "IMTL-G",
)
CURVES = tuple(
    f"{metric}_{change}" for metric in changes.MEASURED for change in changes.CHANGES
)  # one number a severity
BORDERS = ("border_pixels", "border_wrong", "border_wrong_fused")  # one number a distance


def _grid(**values) -> tuple[dict, ...]:
    return tuple(
        dict(zip(values, combination)) for combination in itertools.product(*values.values())
    )


TEST = (*SEMANTIC, *REGION, *JOINT)
SMALL = {"data": ("small photographs",), "epochs": (6,)}
FEW_TEST = ("miou", "pixel_accuracy", "covering", "miou_fused", "miou_surfaces")
RATES = (
    1e-3,
    3e-3,
    9e-3,
    2.7e-2,
)  # tried out; where the encoder learns at the full rate, lower ones
LOW_RATES = (3e-4, 1e-3, 3e-3, 9e-3)
BEST_START = "discriminative"  # in `transfer_tuning`, single and fused
FEW = (0.05, 0.1, 0.25, 0.5)  # shares of the photographs
# Epochs of the experiment `rivals`, which take equally long on one thread of a CPU: "time_ratio" in
# its rows.
EQUALLY_LONG = {"semantic only": 10, "own decoders": 8, "Unet": 9, "FPN": 12, "LRASPP": 14}


def _single_and_fused(seed: tuple[int, ...], **which) -> tuple[dict, ...]:
    common = {**SMALL, "seed": seed}
    fused = _grid(**common, beta=(2.0,), **which, model=("own decoders",))
    return fused + _grid(**common, beta=(1.0,), **which, model=("semantic only",))


EXPERIMENTS = {
    "tuning": Experiment(
        "Learning rates tried out on validation scenes, the same number for every model.",
        _grid(seed=(0,), learning_rate=(4e-3, 8e-3, 1.6e-2), model=TRIED),
        VALIDATION,
        settings,
        on_validation,
    ),
    "designs": Experiment(
        "Photographs, 6 epochs: learning rates, designs and the weight beta of the region task,"
        " tried out on validation pictures.",
        _grid(
            data=("photographs",),
            epochs=(6,),
            seed=(0,),
            learning_rate=(2e-3, 4e-3),
            beta=(1.0,),
            model=COMPARED[:2],
        )
        + _grid(
            data=("photographs",),
            epochs=(6,),
            seed=(0,),
            learning_rate=(2e-3,),
            beta=(1.0, 2.0),
            model=DESIGNS,
        ),
        (*VALIDATION, *DECODED),
        settings,
        decoded_on_validation,
    ),
    "transfer_tuning": Experiment(
        "Small photographs: learning rates for every start, single and fused, tried out on"
        " validation pictures.",
        _single_and_fused((0,), start=tuple(STARTS)[:4], learning_rate=RATES)
        + _single_and_fused((0,), start=("full",), learning_rate=LOW_RATES),
        VALIDATION,
        settings,
        on_validation,
    ),
    "tasks_tuning": Experiment(
        "Small photographs: learning rates for other tasks alone and for three tasks, tried out on"
        " validation pictures.",
        _grid(
            **SMALL,
            seed=(0,),
            beta=(1.0,),
            start=(BEST_START,),
            learning_rate=RATES,
            model=("region only", "surfaces only"),
        )
        + _grid(
            **SMALL,
            seed=(0,),
            beta=(2.0,),
            start=(BEST_START,),
            learning_rate=RATES,
            model=("three tasks",),
        ),
        (*VALIDATION, "val_miou_surfaces"),
        settings,
        on_validation,
    ),
    "full_resolution": Experiment(
        "Photographs at their own size, five folds, from scratch and from ImageNet, single and"
        " fused. For a GPU.",
        tuple(
            {
                "data": "whole photographs",
                "seed": 0,
                "fold": fold,
                "start": start,
                "beta": 2.0 if model == "own decoders" else 1.0,
                "model": model,
            }
            for fold in range(5)
            for start in (BEST_START, "scratch")
            for model in (*COMPARED[:2], "own decoders")
        ),
        TEST,
        settings,
        on_test,
    ),
    "rivals_tuning": Experiment(
        "Small photographs: learning rates for decoders of other libraries, tried out on validation"
        " pictures.",
        _grid(
            **SMALL,
            seed=(0,),
            beta=(1.0,),
            start=(BEST_START,),
            learning_rate=(*RATES, 8.1e-2),
            model=rivals.DECODERS,
        ),
        VALIDATION,
        settings,
        on_validation,
    ),
    "transfer": Experiment(
        "Small photographs, fold 0: five ways to start, single and fused.",
        sum(
            (
                _single_and_fused((seed,), start=tuple(STARTS))
                + _grid(
                    **SMALL, seed=(seed,), beta=(1.0,), start=(BEST_START,), model=("region only",)
                )
                for seed in range(3)
            ),
            (),
        ),
        (*FEW_TEST, "moved", "put_back"),
        settings,
        after_transfer,
    ),
    "few_photographs": Experiment(
        "Small photographs, fold 0, a share of them: four starts, single and fused. `transfer` has"
        " all of them.",
        _single_and_fused((0, 1, 2), pictures=FEW, start=("frozen", BEST_START))
        + _single_and_fused((0, 1, 2), pictures=(FEW[0], FEW[2]), start=("partly frozen", "full")),
        FEW_TEST,
        settings,
        on_few_test,
    ),
    "folds": Experiment(
        "Small photographs, folds 1 to 4: two starts, single and fused. `transfer` has fold 0.",
        sum(
            (
                tuple(
                    {**run, "fold": fold}
                    for run in _single_and_fused((0,), start=("scratch", BEST_START))
                    + _grid(
                        **SMALL, seed=(0,), beta=(1.0,), start=(BEST_START,), model=("region only",)
                    )
                )
                for fold in range(1, 5)
            ),
            (),
        ),
        FEW_TEST,
        settings,
        on_few_test,
    ),
    "surfaces": Experiment(
        "Small photographs, fold 0: the surfaces as a third task, and alone. `transfer` has the two"
        " tasks.",
        sum(
            (
                _grid(
                    **SMALL,
                    seed=(seed,),
                    beta=(1.0,),
                    start=(BEST_START,),
                    model=("surfaces only",),
                )
                + _grid(
                    **SMALL, seed=(seed,), beta=(2.0,), start=(BEST_START,), model=("three tasks",)
                )
                for seed in range(3)
            ),
            (),
        ),
        FEW_TEST,
        settings,
        on_few_test,
    ),
    "rivals": Experiment(
        "Small photographs, fold 0: decoders of other libraries on the same encoder, as many epochs"
        " each as take equally long.",
        tuple(
            {
                "data": "small photographs",
                "epochs": epochs,
                "seed": seed,
                "beta": 2.0 if model == "own decoders" else 1.0,
                "start": BEST_START,
                "model": model,
            }
            for seed in range(3)
            for model, epochs in EQUALLY_LONG.items()
        ),
        ("miou", "val_curve", "pictures_a_second", "time_ratio", "parameters"),
        settings,
        beside_rivals,
    ),
    "fusion": Experiment(
        "Single tasks, two networks and the fused designs on scenes, five seeds each.",
        _grid(epochs=(30,), seed=tuple(range(5)), model=COMPARED)
        + _grid(epochs=(SHORT,), seed=(0,), model=(FUSED,)),
        TEST,
        settings,
        on_test,
    ),
    "heads": Experiment(
        "The region task learned as affinities; scenes, five seeds. Hard sharing in `fusion` has"
        " the classroom head.",
        _grid(epochs=(30,), seed=tuple(range(5)), model=("affinities",)),
        TEST,
        settings,
        on_test,
    ),
    "photographs": Experiment(
        "Single tasks, two networks and fused models on Stanford Background, fold 0; the designs"
        " tried out in `designs`, three seeds.",
        _grid(data=("photographs",), epochs=(16,), seed=(0, 1, 2), beta=(1.0,), model=COMPARED[:3])
        + _grid(
            data=("photographs",),
            epochs=(22,),
            seed=(0, 1, 2),
            beta=(2.0,),
            model=("own decoders",),
        )
        + _grid(data=("photographs",), epochs=(22,), seed=(0,), beta=(1.0,), model=COMPARED[:2])
        + _grid(
            data=("photographs",), epochs=(16,), seed=(0, 1, 2), beta=(2.0,), model=("own blocks",)
        )
        + _grid(data=("photographs",), epochs=(16,), seed=(0,), beta=(1.0,), model=(FUSED,)),
        TEST,
        settings,
        on_test,
    ),
    "labels": Experiment(
        "A share of the semantic labels, all region labels; scenes, three seeds each.",
        _grid(
            epochs=(30,),
            seed=(0, 1, 2),
            labels=(0.1, 0.05, 0.25, 0.5, 1.0),
            model=("semantic only", FUSED),
        )
        + _grid(epochs=(SHORT,), seed=(0,), labels=(0.1,), model=(FUSED,)),
        TEST,
        settings,
        on_test,
    ),
    "weighting": Experiment(
        "Fixed weights alpha and beta = 1 - alpha, and the methods that set weights by themselves;"
        " scenes, three seeds each.",
        _grid(
            epochs=(30,),
            seed=(0, 1, 2),
            weighting=("sum",),
            alpha=(0.1, 0.25, 0.5, 0.75, 0.9),
            model=(FUSED,),
        )
        + _grid(epochs=(30,), seed=(0, 1, 2), weighting=METHODS, alpha=(0.5,), model=(FUSED,))
        + _grid(
            epochs=(SHORT,), seed=(0,), weighting=("observed sum",), alpha=(0.5,), model=(FUSED,)
        ),
        (*TEST, *SERIES),
        settings,
        on_test,
    ),
    "alphas": Experiment(
        "alpha, with beta = 1 - alpha, tried out on validation scenes: the plain sum's tuning.",
        _grid(
            epochs=(30,),
            seed=(0,),
            weighting=("sum",),
            alpha=(0.1, 0.25, 0.5, 0.75, 0.9),
            model=(FUSED,),
        ),
        VALIDATION,
        settings,
        on_validation,
    ),
    "robustness": Experiment(
        "Single and fused, trained with and without changes of the light, tested under changes of"
        " many kinds.",
        _grid(
            data=("scenes",),
            epochs=(30,),
            seed=(0, 1, 2),
            light=(0.2, 0.0),
            beta=(1.0,),
            model=SINGLE_AND_FUSED,
        )
        + _grid(
            data=("photographs",),
            epochs=(16,),
            seed=(0, 1, 2),
            light=(0.3,),
            beta=(1.0,),
            model=SINGLE_AND_FUSED[:2],
        )
        + _grid(
            data=("photographs",),
            epochs=(16,),
            seed=(0, 1, 2),
            light=(0.3,),
            beta=(2.0,),
            model=("own blocks",),
        )
        + _grid(
            data=("scenes",), epochs=(SHORT,), seed=(0,), light=(0.2,), beta=(1.0,), model=(FUSED,)
        ),
        (*CURVES, *BORDERS),
        changed_settings,
        under_changes,
    ),
}
