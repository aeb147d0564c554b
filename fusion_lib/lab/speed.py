"""How many pictures a second a training run takes in, with one switch after another turned on, and
how near that is to the limit.

    python -m fusion_lib.lab.speed            # prints a table for this machine
    python -m fusion_lib.lab.speed --store    # and keeps it in data/results/speed.json, beside those of
    other devices

Every figure is of whole steps: data, forward, both losses, backward, clipping, update.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from fusion_lib import datasets, models, targets, training
from fusion_lib.engine import devices, files, machine
from fusion_lib.engine.files import write_whole
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.lab import recipes, rivals
from fusion_lib.losses import FusionLoss
from fusion_lib.transforms import augmentation

# What the names of operations hold, on a CPU and on a GPU; the first group that fits has it.
GROUPS = {
    "convolutions": ("conv", "gemm", "dgrad", "wgrad"),
    "loader": ("dataloader",),
    "batch norm": ("batch_norm", "batchnorm", "bn_"),
    "resizing": ("upsample",),
    "loss": ("softmax", "nll"),
    "optimizer": ("optimizer", "adam"),
}
STORED = files.data_folder() / "results" / "speed.json"  # device -> its report
SWITCHES = (
    "data on the device",
    "channels-last",
    "16-bit numbers",
    "fused optimizer",
    "no waiting",
    "compiled",
)


def ladder(
    device: torch.device,
    size: tuple[int, int] = (240, 320),
    batch_size: int = 8,
    steps: int = 10,
    compile: bool = True,
) -> dict[str, float | str]:
    """Pictures a second: {"plain": ..., and after each further switch of `SWITCHES`: ...}, or why a
    switch is left out.

    Plain is a loader on the CPU, 32-bit numbers, the usual memory layout, AdamW step by step, and a
    look at the loss after every step. All switches before it stay on. The model is the default
    fused model; pictures are scenes, resized.

    Args:
        steps: timed steps, after two to warm up, in each of three turns; the median turn counts.
        compile: try the last switch too, which takes up to a minute on a CPU.
    """
    steps_of: dict[str, Callable] = {}
    rates: dict[str, float | str] = {}  # for now why a switch is left out, "" if it is not
    for count in range(len(SWITCHES) + 1):
        on = SWITCHES[:count]
        name = on[-1] if on else "plain"
        if name == "compiled" and not compile:
            rates[name] = "left out, compiling takes longer than these steps"
        else:
            steps_of[name], rates[name] = _step(device, on, size, batch_size)
    running = {name: step for name, step in steps_of.items() if not rates[name]}
    turns = [
        {
            name: _pictures_a_second(step, device, batch_size, steps)
            for name, step in running.items()
        }
        for _ in range(3)
    ]
    return rates | {name: statistics.median(turn[name] for turn in turns) for name in running}


def limits(device: torch.device) -> dict[str, float]:
    """What the device does at best, measured: {"operations": a second, of a large product of
    matrices with 32-bit or 16-bit numbers, whichever are faster; "bytes": a second, read and
    written by a large copy}.
    """
    side, megabytes = (8192, 1024) if device.type == "cuda" else (1024, 64)
    matrix = torch.rand(side, side, device=device)
    short, source = (
        matrix.to(devices.half_precision(device)),
        torch.rand(megabytes * 2**18, device=device),
    )
    target = torch.empty_like(source)

    def best(work: Callable) -> float:
        return max(_pictures_a_second(work, device, 1, 5) for _ in range(3))

    products = max(best(lambda: matrix @ matrix), best(lambda: short @ short))
    return {
        "operations": 2 * side**3 * products,
        "bytes": 2 * source.nbytes * best(lambda: target.copy_(source)),
    }


def needs(device: torch.device, size: tuple[int, int], batch_size: int) -> dict[str, float]:
    """What a training step with all switches but the compiler needs for one picture, its loader
    left out: {"operations", "bytes"}.

    Operations are those of convolutions. Bytes are what every operation reads and writes, as if
    nothing stayed in a cache.
    """
    step, _ = _step(device, SWITCHES[:-1], size, batch_size)
    step()
    with FlopCounterMode(display=False) as counter, _Traffic() as whole:
        step()
    batches = iter(loaders(device, size, batch_size)[1])
    with _Traffic() as loader:
        next(batches)
    return {
        "operations": counter.get_total_flops() / batch_size,
        "bytes": (whole.bytes - loader.bytes) / batch_size,
    }


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write: what they are given and what they give;
    views move nothing.

    An operation in place writes to what it is given. `copy_` and its like do not read what they
    fill.
    """

    FILL = ("copy_", "zero_", "fill_")
    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        result = operation(*arguments, **options)
        name = operation.overloadpacket.__name__
        if operation.is_view or name.startswith("empty"):
            return result
        given = list(zip(operation._schema.arguments, arguments))
        given += [
            (argument, options[argument.name])
            for argument in operation._schema.arguments
            if argument.name in options
        ]
        changed = [
            value
            for argument, value in given
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        read = (
            []
            if name.endswith("_like")
            else [
                value
                for _, value in given
                if not (name in self.FILL and any(value is c for c in changed))
            ]
        )
        written = changed if changed else result
        self.bytes += sum(
            tensor.nbytes
            for tensor in tree_leaves((read, written))
            if isinstance(tensor, torch.Tensor)
        )
        return result


def decoder_rates(device: torch.device, batch_size: int) -> dict[str, float]:
    """Pictures of 256 x 320 a second, forward and backward, in turns: our networks for photographs,
    {"semantic only", "own decoders"}, and other libraries' decoders on the same encoder
    (`rivals.DECODERS`), which learn the semantic task alone.

    Raises:
        ModuleNotFoundError: the extra `rivals` is not installed.
    """
    names, design = (
        {"semantic": recipes.TASKS["semantic"]},
        recipes.PHOTOGRAPHS.model | {"pretrained": False},
    )
    networks = {"semantic only": models.FusionModel(names, **design)}
    networks["own decoders"] = models.FusionModel(recipes.TASKS, **design, sharing="decoders")
    networks |= {
        decoder: rivals.Rival(names, decoder, pretrained=False) for decoder in rivals.DECODERS
    }
    networks = {
        name: network.to(device, memory_format=torch.channels_last).train()
        for name, network in networks.items()
    }
    images = torch.rand(batch_size, 3, 256, 320, device=device).contiguous(
        memory_format=torch.channels_last
    )
    precision = devices.half_precision(device) if device.type == "cuda" else torch.float32
    turns = [
        [models.time_step(network, images, precision, 3) for network in networks.values()]
        for _ in range(5)
    ]
    return {
        name: 1e3 * batch_size / statistics.median(times)
        for name, times in zip(networks, zip(*turns))
    }


def profile(
    device: torch.device, size: tuple[int, int], batch_size: int, steps: int
) -> dict[str, float]:
    """Shares of the time of plain steps, {group: share}, by torch's profiler; "other" is all that
    is in no group.

    On CUDA it is the time of the device's kernels, among which the loader on the CPU has none.
    """
    step, _ = _step(device, (), size, batch_size)
    step(), step()  # to warm up
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages are for its authors
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    own = {
        event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    shares = dict.fromkeys(GROUPS, 0.0)
    for name, spent in own.items():
        group = next(
            (
                group
                for group, words in GROUPS.items()
                if any(word in name.lower() for word in words)
            ),
            None,
        )
        if group:
            shares[group] += spent / sum(own.values())
    return shares | {"other": 1 - sum(shares.values())}


def data_rate(loader, device: torch.device, batches: int = 10) -> float:
    """Pictures a second that a loader gives, on the device, when nobody else works."""
    stream = _endless(loader)

    def read() -> None:
        for values in next(stream).values():
            values.to(device)

    return _pictures_a_second(read, device, loader.batch_size, batches)


def loaders(
    device: torch.device, size: tuple[int, int], batch_size: int
) -> tuple[DataLoader, ResidentLoader]:
    """The same augmented scenes, from the CPU and kept on the device."""
    recipe = recipes.SCENES
    steps = [
        augmentation(size, smallest_crop=0.4, light=recipe.light),
        targets.RegionTarget(recipe.tau),
    ]
    on_cpu = DataLoader(
        datasets.Scenes("train", transform=v2.Compose(steps)),
        batch_size,
        shuffle=True,
        drop_last=True,
    )
    on_device = ResidentLoader(
        datasets.Scenes("train"),
        batch_size,
        size,
        recipe.tau,
        device,
        smallest_crop=0.4,
        light=recipe.light,
    )
    return on_cpu, on_device


def _step(device: torch.device, on: tuple[str, ...], size, batch_size: int) -> tuple[Callable, str]:
    training.seed_everything(0)
    layout = torch.channels_last if "channels-last" in on else torch.contiguous_format
    model = models.FusionModel(recipes.TASKS).to(device, memory_format=layout).train()
    loss, forward, note = FusionLoss(), model, ""
    fused = "fused optimizer" in on and device.type != "mps"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, fused=fused, foreach=False if not fused else None
    )
    mixed = torch.autocast(
        device.type, devices.half_precision(device), enabled="16-bit numbers" in on
    )
    scaler = torch.amp.GradScaler(
        device.type,
        enabled="16-bit numbers" in on and devices.half_precision(device) == torch.float16,
    )
    batches = _endless(loaders(device, size, batch_size)["data on the device" in on])
    if "compiled" in on:
        with mixed:
            forward, note = devices.compiled(
                model, next(batches)["image"].to(device, memory_format=layout)
            )

    def step() -> None:
        batch = {
            name: values.as_subclass(torch.Tensor).to(device)
            for name, values in next(batches).items()
        }
        optimizer.zero_grad()
        with mixed:
            parts = loss(forward(batch["image"].contiguous(memory_format=layout)), batch)
        scaler.scale(parts["total"]).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if "no waiting" not in on:
            parts["total"].item()

    return step, note and f"left out: {note}"


def _pictures_a_second(step: Callable, device: torch.device, batch_size: int, steps: int) -> float:
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(
        device.type, lambda: None
    )
    for _ in range(2):
        step()
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return batch_size * steps / (time.perf_counter() - began)


def _endless(loader) -> Iterator[dict]:
    return itertools.chain.from_iterable(itertools.repeat(loader))


def report(device: torch.device, steps: int, batch_size: int) -> dict:
    """Everything that is measured on a device for pictures of 240 x 320, ready for JSON; `lines`
    puts it in words."""
    size = (240, 320)
    images = torch.rand(batch_size, 3, *size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    networks = [
        kind(recipes.TASKS).to(device, memory_format=torch.channels_last).train()
        for kind in (models.FusionModel, models.TwoNetworks)
    ]
    precision = devices.half_precision(device) if device.type == "cuda" else torch.float32
    pairs = [
        [models.time_step(network, images, precision, 5) for network in networks] for _ in range(3)
    ]
    paths = zip(("loader on the CPU", "data on the device"), loaders(device, size, batch_size))
    return {
        "torch": torch.__version__,
        "size": list(size),
        "batch": batch_size,
        "rates": ladder(device, size, batch_size, steps),
        "data": {name: data_rate(loader, device, max(steps, 10)) for name, loader in paths},
        "fused_over_two": sorted(fused / two for fused, two in pairs)[1],
        "limits": limits(device),
        "needs": needs(device, size, batch_size),
        "rivals": decoder_rates(device, batch_size),
    }


def stored() -> dict[str, dict]:
    """The reports that were kept, {device: report}."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


def lines(name: str, measured: dict) -> list[str]:
    """A device's report in words."""
    height, width = measured["size"]
    plain = measured["rates"]["plain"]
    text = [
        f"{name}; torch {measured['torch']}; {measured['batch']} pictures of {height} x {width}"
    ]
    for switch, rate in measured["rates"].items():
        text.append(
            f"{switch:20} {rate}"
            if isinstance(rate, str)
            else f"{switch:20} {rate:8.1f} pictures a second, {rate / plain:.2f} of plain"
        )
    text += [
        f"{path:20} gives {rate:8.1f} pictures a second" for path, rate in measured["data"].items()
    ]
    text.append(f"a fused step takes {measured['fused_over_two']:.2f} of two networks' step")
    reached = measured["rates"][SWITCHES[-2]]  # the step whose needs were counted
    for kind, unit in (("operations", "G operations"), ("bytes", "GB")):
        need, limit = measured["needs"][kind], measured["limits"][kind]
        text.append(
            f"{need / 1e9:.2f} {unit} a picture; the device does {limit / 1e9:.0f} {unit} a second,"
            f" enough for {limit / need:.0f} pictures; reached: {reached * need / limit:.0%}"
        )
    text.append(
        "decoders behind the same encoder, photographs of 256 x 320, forward and backward (own"
        " decoders: both tasks):"
    )
    for network, rate in measured["rivals"].items():
        text.append(
            f"{network:20} {rate:8.1f} pictures a second,"
            f" {rate / measured['rivals']['semantic only']:.2f} of semantic only"
        )
    return text


def main(arguments: list[str]) -> None:
    """Print this device's report; with --store, keep it."""
    device = devices.choose_device()
    cuda = device.type == "cuda"
    measured = (
        report(device, steps=50, batch_size=32) if cuda else report(device, steps=3, batch_size=8)
    )
    processor = f"{machine.processor()}, {torch.get_num_threads()} threads"
    name = (
        torch.cuda.get_device_name() if cuda else "Apple MPS" if device.type == "mps" else processor
    )
    print("\n".join(lines(name, measured)))
    if "--store" in arguments:
        write_whole(STORED, (json.dumps({**stored(), name: measured}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
