"""Times and memory on this machine: `make bench`. Nothing here is asserted; compare ratios, not
single figures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fusion_lib import datasets, metrics, models, regions, targets
from fusion_lib.engine import files, machine
from fusion_lib.lab import recipes, run
from fusion_lib.losses import FusionLoss


def median_milliseconds(work: Callable, repeats: int = 20) -> float:
    """Median wall time of one call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times[1:]))


def import_seconds() -> tuple[float, float]:
    """Seconds to import torch and torchvision, and what fusion_lib with all its modules adds."""
    modules = ", ".join(
        f"fusion_lib.{name}"
        for name in [
            "datasets",
            "transforms",
            "training",
            "regions",
            "metrics",
            "plots",
            "recipes",
            "experiments",
        ]
    )
    code = (
        "import time; a = time.perf_counter(); import torch, torchvision; b = time.perf_counter(); "
        f"import {modules}; print(b - a, time.perf_counter() - b)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return tuple(float(np.median([float(r.stdout.split()[i]) for r in runs[1:]])) for i in (0, 1))


def pictures() -> list[tuple[str, dict]]:
    """One sample of each size that is at hand."""
    samples = [("64 x 64", datasets.Scenes("val")[0])]
    if (files.cache_folder() / datasets.StanfordBackground.cache_name()).is_dir():
        samples.append(("240 x 320", datasets.StanfordBackground("val")[0]))
    return samples


def read_photographs() -> None:
    """Read every pixel and label of every photograph from the cache."""
    for split in ("train", "val", "test"):
        photographs = datasets.StanfordBackground(split)
        for index in range(len(photographs)):
            for array in photographs.read(index):
                np.array(array)


def main() -> None:
    """Print every figure, one a line."""
    print(f"{machine.accelerator()}; torch {torch.__version__}")
    base, added = import_seconds()
    print(
        f"import torch, torchvision: {base:.2f} s; import of every fusion_lib module adds"
        f" {added:.2f} s"
    )
    if len(pictures()) == 2:
        print(
            "all 715 photographs read from their cache:"
            f" {median_milliseconds(read_photographs, 3) / 1e3:.2f} s"
        )
    for size, sample in pictures():
        target = targets.region_target(np.asarray(sample["region"]), 2.0)
        one_hot = np.eye(3)[np.minimum(target, 2)].transpose(2, 0, 1)
        logits = {
            "semantic": torch.randn(1, 8, *target.shape),
            "region": torch.randn(1, 3, *target.shape),
        }
        predicted = {task: values.log_softmax(1)[0].numpy() for task, values in logits.items()}
        batch = {
            "semantic": sample["semantic"][None],
            "region_target": torch.from_numpy(target)[None],
        }
        work = {
            "loss": lambda: FusionLoss()(logits, batch),
            "region target": lambda: targets.region_target(np.asarray(sample["region"]), 2.0),
            "decode": lambda: regions.decode_regions(one_hot),
            "fuse": lambda: regions.fuse(
                predicted, 0.5, smoothing=0.5, threshold=0.5, edge_weight=1.0
            ),
            "partition metrics": lambda: metrics.partition_scores(
                sample["region"], sample["region"]
            ),
            "confusion matrix": lambda: metrics.confusion_matrix(
                sample["semantic"], sample["semantic"], 8
            ),
        }
        print(
            f"milliseconds a picture of {size}:",
            ", ".join(f"{n} {median_milliseconds(w):.2f}" for n, w in work.items()),
        )
    images = torch.rand(8, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    fused, two = (
        kind(recipes.TASKS).to(memory_format=torch.channels_last)
        for kind in (models.FusionModel, models.TwoNetworks)
    )
    for name, backward in (("training step", True), ("prediction", False)):
        fused.train(backward), two.train(backward)
        pairs = [
            [models.time_step(model, images, backward=backward) for model in (fused, two)]
            for _ in range(5)
        ]
        print(
            f"{name}, 8 scenes: fused {np.median([f for f, _ in pairs]):.1f} ms, two networks"
            f" {np.median([t for _, t in pairs]):.1f} ms, ratio"
            f" {np.median([f / t for f, t in pairs]):.2f}"
        )
    photographs = torch.rand(8, 3, 192, 256).contiguous(memory_format=torch.channels_last)
    design = {**recipes.PHOTOGRAPHS_FUSED.model, "pretrained": False}
    own, apart = (
        models.FusionModel(recipes.TASKS, **design),
        models.TwoNetworks(recipes.TASKS, **design | {"sharing": "hard"}),
    )
    own, apart = (model.to(memory_format=torch.channels_last).train() for model in (own, apart))
    pairs = [
        [models.time_step(model, photographs, repeats=2) for model in (own, apart)]
        for _ in range(3)
    ]
    print(
        f"training step, 8 photographs: own decoders {np.median([o / a for o, a in pairs]):.2f} of"
        " two networks"
    )
    print(
        f"parameters: fused {models.count_parameters(fused):,}, two networks"
        f" {models.count_parameters(two):,}"
    )
    for path in sorted(run.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        seconds, megabytes = notebook_cost(path)
        print(f"{path.stem}: {seconds:.0f} s, peak memory {megabytes:.0f} MB")


def notebook_cost(path: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB, of its kernel) of one notebook, executed in a process of its
    own."""
    code = (
        "import nbformat, resource, sys, pathlib; from fusion_lib import run;"
        " run.execute(nbformat.read(sys.argv[1], 4), pathlib.Path(sys.argv[1]).stem,"
        " pathlib.Path(sys.argv[2])); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss"
        " / 1024)"
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, path, folder], capture_output=True, text=True, check=True
        )
        return time.perf_counter() - began, float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
