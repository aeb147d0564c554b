"""Times and memory on this machine: nothing here is asserted; compare ratios, not single figures.

python -m fusion_lib.lab.bench            # everything; `make bench`
python -m fusion_lib.lab.bench --store    # training alone, kept in data/results/speed.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch

from fusion_lib import datasets, metrics, models, regions, targets
from fusion_lib.engine import devices, files, machine
from fusion_lib.lab import notebooks, recipes, speed
from fusion_lib.losses import FusionLoss

STORED = files.data_folder() / "results" / "speed.json"  # device -> its report
IMPORTS = """
import pkgutil, time
began = time.perf_counter()
import torch, torchvision
between = time.perf_counter()
import fusion_lib
for module in pkgutil.walk_packages(fusion_lib.__path__, "fusion_lib."):
    if not module.name.startswith("fusion_lib.lab") and not module.name.endswith("__main__"):
        __import__(module.name)
print(between - began, time.perf_counter() - between)
"""
NOTEBOOK = """
import nbformat, pathlib, resource, sys, time
from fusion_lib.lab import notebooks
began, path = time.perf_counter(), pathlib.Path(sys.argv[1])
notebooks.execute(nbformat.read(path, 4), path.stem, pathlib.Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(time.perf_counter() - began, peak)
"""


def report(device: torch.device, steps: int, batch_size: int) -> dict:
    """What is measured of training on pictures of 240 x 320, ready for JSON; see `lines`."""
    size, names = (240, 320), ("loader on the CPU", "data on the device")
    paths = zip(names, speed.loaders(device, size, batch_size))
    pair = speed.network_rates(device, _fused_and_two(), (batch_size, 3, *size))
    return {
        "torch": torch.__version__,
        "size": list(size),
        "batch": batch_size,
        "rates": speed.ladder(device, size, batch_size, steps),
        "data": {name: speed.data_rate(loader, device, max(steps, 10)) for name, loader in paths},
        "fused_over_two": pair["two networks"] / pair["fused"],
        "limits": speed.limits(device),
        "needs": speed.needs(device, size, batch_size),
        "rivals": speed.decoder_rates(device, batch_size),
    }


def stored() -> dict[str, dict]:
    """The reports that were kept, {device: report}."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


def lines(name: str, measured: dict) -> list[str]:
    """A device's report in words."""
    height, width = measured["size"]
    batch, rates, beside = measured["batch"], measured["rates"], measured["rivals"]
    text = [f"{name}; torch {measured['torch']}; {batch} pictures of {height} x {width}"]
    for switch, rate in rates.items():
        said = rate if isinstance(rate, str) else _rate(rate, rates["plain"], "plain")
        text.append(f"{switch:20} {said}")
    for path, rate in measured["data"].items():
        text.append(f"{path:20} gives {rate:8.1f} pictures a second")
    text.append(f"a fused step takes {measured['fused_over_two']:.2f} of two networks' step")
    reached = rates[speed.SWITCHES[-2]]  # the step whose needs were counted
    for kind, unit in (("operations", "G operations"), ("bytes", "GB")):
        need, limit = measured["needs"][kind], measured["limits"][kind]
        device = f"the device does {limit / 1e9:.0f} {unit} a second"
        share = f"enough for {limit / need:.0f} pictures; reached: {reached * need / limit:.0%}"
        text.append(f"{need / 1e9:.2f} {unit} a picture; {device}, {share}")
    behind = "decoders behind the same encoder, photographs of 256 x 320, forward and backward"
    text.append(f"{behind} (own decoders: both tasks):")
    for network, rate in beside.items():
        text.append(f"{network:20} {_rate(rate, beside['semantic only'], 'semantic only')}")
    return text


def _rate(rate: float, base: float, name: str) -> str:
    return f"{rate:8.1f} pictures a second, {rate / base:.2f} of {name}"


def _fused_and_two() -> dict:
    kinds = {"fused": models.FusionModel, "two networks": models.TwoNetworks}
    return {name: kind(recipes.TASKS) for name, kind in kinds.items()}


def of_a_picture(sample: dict) -> dict[str, Callable]:
    """What is done to one picture outside of a network, each ready to be called."""
    region, semantic = np.asarray(sample["region"]), sample["semantic"]
    target = targets.region_target(region, 2.0)
    one_hot = np.eye(3)[np.minimum(target, 2)].transpose(2, 0, 1)
    logits = {task: torch.randn(1, n, *target.shape) for task, n in recipes.TASKS.items()}
    predicted = {task: values.log_softmax(1)[0].numpy() for task, values in logits.items()}
    batch = {"semantic": semantic[None], "region_target": torch.from_numpy(target)[None]}
    decoding = {"smoothing": 0.5, "threshold": 0.5, "edge_weight": 1.0}
    return {
        "loss": lambda: FusionLoss()(logits, batch),
        "region target": lambda: targets.region_target(region, 2.0),
        "decode": lambda: regions.decode_regions(one_hot),
        "fuse": lambda: regions.fuse(predicted, 0.5, **decoding),
        "partition metrics": lambda: metrics.partition_scores(region, region),
        "confusion matrix": lambda: metrics.confusion_matrix(semantic, semantic, 8),
    }


def read_photographs() -> None:
    """Read every pixel and label of every photograph from the cache."""
    for photographs in map(datasets.StanfordBackground, ("train", "val", "test")):
        for index in range(len(photographs)):
            list(map(np.array, photographs.read(index)))


def numbers(code: str, *arguments) -> list[float]:
    """What a Python process of its own prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def everything() -> None:
    """Print every figure, one a line."""
    print(f"{machine.accelerator()}; torch {torch.__version__}")
    base, added = map(statistics.median, zip(*[numbers(IMPORTS) for _ in range(5)]))
    print(f"import torch, torchvision: {base:.2f} s; core and engine of fusion_lib: {added:.2f} s")
    samples = {"64 x 64": datasets.Scenes("val")[0]}
    if (files.cache_folder() / datasets.StanfordBackground.cache_name()).is_dir():
        samples["240 x 320"] = datasets.StanfordBackground("val")[0]
        read = speed.seconds(read_photographs, 3)
        print(f"all 715 photographs read from their cache: {read:.2f} s")
    for size, sample in samples.items():
        works = of_a_picture(sample).items()
        costs = ", ".join(f"{name} {1e3 * speed.seconds(work, 20):.2f}" for name, work in works)
        print(f"milliseconds a picture of {size}: {costs}")
    cpu, both = torch.device("cpu"), _fused_and_two()
    for name, backward in (("training step", True), ("prediction", False)):
        rates = speed.network_rates(cpu, both, (8, 3, 64, 64), backward)
        fused, two = (8e3 / rate for rate in rates.values())
        times = f"fused {fused:.1f} ms, two networks {two:.1f} ms, ratio {fused / two:.2f}"
        print(f"{name}, 8 scenes: {times}")
    design = recipes.PHOTOGRAPHS_FUSED.model | {"pretrained": False}
    own = models.FusionModel(recipes.TASKS, **design)
    apart = models.TwoNetworks(recipes.TASKS, **design | {"sharing": "hard"})
    rates = speed.network_rates(cpu, {"own": own, "apart": apart}, (8, 3, 192, 256))
    ratio = rates["apart"] / rates["own"]
    print(f"training step, 8 photographs: own decoders {ratio:.2f} of two networks")
    counts = [f"{name} {models.count_parameters(model):,}" for name, model in both.items()]
    print(f"parameters: {', '.join(counts)}")
    for path in notebooks.paths():
        with tempfile.TemporaryDirectory() as folder:
            seconds, megabytes = numbers(NOTEBOOK, path, folder)
        print(f"{path.stem}: {seconds:.0f} s, peak memory {megabytes:.0f} MB")


def main(arguments: list[str]) -> None:
    """Print this device's figures; with --store, those of training alone, and keep them."""
    if "--store" not in arguments:
        everything()
    device = devices.choose_device()
    cuda = device.type == "cuda"
    measured = report(device, steps=50 if cuda else 3, batch_size=32 if cuda else 8)
    name = f"{machine.processor()}, {torch.get_num_threads()} threads"
    if device.type != "cpu":
        name = torch.cuda.get_device_name() if cuda else "Apple MPS"
    print("\n".join(lines(name, measured)))
    if "--store" in arguments:
        content = json.dumps({**stored(), name: measured}, indent=1) + "\n"
        files.write_whole(STORED, content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
