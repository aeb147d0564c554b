"""Times on this machine: nothing here is asserted; compare ratios, not single figures.

python -m fusion_lib.lab.bench            # everything; `make bench`
python -m fusion_lib.lab.bench --store    # training alone, kept in data/results/speed.json
"""

import json
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch

import fusion_lib
from fusion_lib import datasets, metrics, models, regions, targets
from fusion_lib.engine import devices, files, machine
from fusion_lib.lab import recipes, speed
from fusion_lib.losses import FusionLoss

STORED = files.data_folder() / "results" / "speed.json"  # device -> its report


def report(device: torch.device, steps: int, batch_size: int) -> dict:
    """What is measured of training on pictures of 240 x 320, ready for JSON; see `lines`."""
    size, paths = (240, 320), {"loader on the CPU": False, "data on the device": True}
    loaders = {name: speed.loader(size, batch_size, kept) for name, kept in paths.items()}
    pair = speed.network_rates(device, _fused_and_two(), (batch_size, 3, *size))
    return {
        "torch": torch.__version__,
        "size": list(size),
        "batch": batch_size,
        "rates": speed.ladder(device, size, batch_size, steps),
        "data": {n: speed.data_rate(one, device, max(steps, 10)) for n, one in loaders.items()},
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
    batch, rates = measured["batch"], measured["rates"]
    text = [f"{name}; torch {measured['torch']}; {batch} pictures of {height} x {width}"]
    text += _compared(rates, "plain")
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
    return text + _compared(measured["rivals"], "semantic only")


def _compared(rates: dict[str, float | str], base: str) -> list[str]:
    text = []
    for name, rate in rates.items():
        if not isinstance(rate, str):
            rate = f"{rate:8.1f} pictures a second, {rate / rates[base]:.2f} of {base}"
        text.append(f"{name:20} {rate}")
    return text


def _fused_and_two(**design) -> dict:
    two = models.TwoNetworks(recipes.TASKS, **design | {"sharing": "hard"})
    return {"fused": models.FusionModel(recipes.TASKS, **design), "two networks": two}


def of_a_picture(sample: dict) -> dict[str, Callable]:
    """What is done to one picture outside of a network, each ready to be called."""
    region, semantic = np.asarray(sample["region"]), sample["semantic"]
    target = targets.region_target(region, 2.0)
    one_hot = np.eye(3)[np.minimum(target, 2)].transpose(2, 0, 1)
    logits = {task: torch.randn(1, n, *target.shape) for task, n in recipes.TASKS.items()}
    batch = {"semantic": semantic[None], "region_target": torch.from_numpy(target)[None]}
    return {
        "loss": lambda: FusionLoss()(logits, batch),
        "region target": lambda: targets.region_target(region, 2.0),
        "decode": lambda: regions.decode_regions(one_hot),
        "partition metrics": lambda: metrics.partition_scores(region, region),
        "confusion matrix": lambda: metrics.confusion_matrix(semantic, semantic, 8),
    }


def read_photographs() -> None:
    """Read every pixel and label of every photograph from the cache."""
    for photographs in map(datasets.StanfordBackground, ("train", "val", "test")):
        for index in range(len(photographs)):
            list(map(np.array, photographs.read(index)))


def import_seconds() -> float:
    """What core and engine add to a Python of its own that has torch and torchvision."""
    walked = pkgutil.walk_packages(fusion_lib.__path__, "fusion_lib.")
    names = ", ".join(m.name for m in walked if not m.name.startswith("fusion_lib.lab"))
    timed = f"timeit.timeit('import {names}', 'import torch, torchvision', number=1)"
    command = [sys.executable, "-c", f"import timeit; print({timed})"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def everything() -> None:
    """Print every figure, one a line."""
    print(f"{machine.accelerator()}; torch {torch.__version__}")
    added = statistics.median(import_seconds() for _ in range(5))
    print(f"import of core and engine of fusion_lib, beyond torch and torchvision: {added:.2f} s")
    samples = {"64 x 64": datasets.Scenes("val")[0]}
    if (files.cache_folder() / datasets.StanfordBackground.cache_name()).is_dir():
        samples["240 x 320"] = datasets.StanfordBackground("val")[0]
        read = speed.seconds(read_photographs, 3)
        print(f"all 715 photographs read from their cache: {read:.2f} s")
    for size, sample in samples.items():
        works = of_a_picture(sample).items()
        costs = ", ".join(f"{name} {1e3 * speed.seconds(work, 20):.2f}" for name, work in works)
        print(f"milliseconds a picture of {size}: {costs}")
    photographs = recipes.PHOTOGRAPHS_FUSED.model | {"pretrained": False}
    for name, design, size, backward in (
        ("training step, 8 scenes", {}, (64, 64), True),
        ("prediction, 8 scenes", {}, (64, 64), False),
        ("training step, 8 photographs", photographs, (192, 256), True),
    ):
        pair, shape = _fused_and_two(**design), (8, 3, *size)
        rates = speed.network_rates(torch.device("cpu"), pair, shape, backward)
        fused, two = (8e3 / rate for rate in rates.values())
        print(f"{name}: fused {fused:.1f} ms, two networks {two:.1f} ms, ratio {fused / two:.2f}")


def main(arguments: list[str]) -> None:
    """Print this device's figures; with --store, those of training alone, and keep them."""
    if "--store" not in arguments:
        everything()
    device = devices.choose_device()
    cuda = device.type == "cuda"
    measured = report(device, steps=50 if cuda else 3, batch_size=32 if cuda else 8)
    on_cpu = f"{machine.processor()}, {torch.get_num_threads()} threads"
    name = on_cpu if device.type == "cpu" else machine.accelerator()
    print("\n".join(lines(name, measured)))
    if "--store" in arguments:
        content = json.dumps({**stored(), name: measured}, indent=1) + "\n"
        files.write_whole(STORED, content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
