"""How many pictures a second a training takes in, in whole steps (data, forward, both losses,
backward, clipping, update), with one switch after another turned on, and how near that is to the
limit. `bench` prints and stores what is measured here."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from fusion_lib import datasets, models, targets, training
from fusion_lib.engine import devices
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.lab import recipes, rivals
from fusion_lib.losses import FusionLoss
from fusion_lib.transforms import augmentation

# What names of operations hold, on a CPU and on a GPU; the first group that fits has it.
GROUPS = {
    "convolutions": ("conv", "gemm", "dgrad", "wgrad"),
    "loader": ("dataloader",),
    "batch norm": ("batch_norm", "batchnorm", "bn_"),
    "resizing": ("upsample",),
    "loss": ("softmax", "nll"),
    "optimizer": ("optimizer", "adam"),
}
SWITCHES = (
    "data on the device",
    "channels-last",
    "16-bit numbers",
    "fused optimizer",
    "no waiting",
    "compiled",
)


def seconds(work: Callable, repeats: int) -> float:
    """Mean time of a call, the device's work included, after two to warm up."""
    work(), work()
    _wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait()
    return (time.perf_counter() - began) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def ladder(
    device: torch.device, size=(240, 320), batch_size: int = 8, steps: int = 10, compile=True
) -> dict[str, float | str]:
    """Pictures a second: {"plain": ..., and after each further switch of `SWITCHES`: ...}, or why a
    switch is left out. The default fused model learns scenes, resized; plain is a loader on the
    CPU, 32-bit numbers, the usual memory layout, AdamW step by step, and a look at every loss.

    `steps` are timed in each of three turns, of which the median counts; to `compile` takes up to a
    minute on a CPU."""
    works: dict[str, Callable] = {}
    rates: dict[str, float | str] = {}
    for count, name in enumerate(("plain", *SWITCHES)):
        rates[name] = "left out, compiling takes longer than these steps"
        if name != "compiled" or compile:
            step, rates[name] = _step(device, SWITCHES[:count], size, batch_size)
            if not rates[name]:
                works[name] = step
    return rates | _rates(works, lambda step: seconds(step, steps), batch_size, turns=3)


def _rates(works: dict, clock: Callable, pictures: int, turns: int) -> dict[str, float]:
    """Pictures a second, in the median of several turns, in each of which all have theirs."""
    times = [[clock(work) for work in works.values()] for _ in range(turns)]
    return {n: pictures / statistics.median(each) for n, each in zip(works, zip(*times))}


def limits(device: torch.device) -> dict[str, float]:
    """What the device does at best in a second: {"operations": of a large product of matrices with
    32-bit or 16-bit numbers, whichever are faster; "bytes": read and written by a large copy}."""
    side, megabytes = (8192, 1024) if device.type == "cuda" else (1024, 64)
    matrix = torch.rand(side, side, device=device)
    short = matrix.to(devices.half_precision(device))
    source = torch.rand(megabytes * 2**18, device=device)
    target = torch.empty_like(source)

    def least(work: Callable) -> float:
        return min(seconds(work, 5) for _ in range(3))

    product = min(least(lambda: matrix @ matrix), least(lambda: short @ short))
    copy = least(lambda: target.copy_(source))
    return {"operations": 2 * side**3 / product, "bytes": 2 * source.nbytes / copy}


def needs(device: torch.device, size: tuple[int, int], batch_size: int) -> dict[str, float]:
    """What a training step with all switches but the compiler needs for one picture, its loader
    left out: {"operations": of convolutions; "bytes": read and written by every operation, as if
    nothing stayed in a cache}."""
    step, _ = _step(device, SWITCHES[:-1], size, batch_size)
    step()
    with FlopCounterMode(display=False) as counter, _Traffic() as whole:
        step()
    batches = iter(loaders(device, size, batch_size)[1])
    with _Traffic() as loader:
        next(batches)
    needed = {"operations": counter.get_total_flops(), "bytes": whole.bytes - loader.bytes}
    return {kind: number / batch_size for kind, number in needed.items()}


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations are given and give. Views move nothing; an operation in
    place writes to what it is given; `copy_` and its like do not read what they fill."""

    FILL = ("copy_", "zero_", "fill_")
    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        result = operation(*arguments, **options)
        name = operation.overloadpacket.__name__
        if operation.is_view or name.startswith("empty"):
            return result
        declared = operation._schema.arguments
        given = list(zip(declared, arguments))
        given += [(one, options[one.name]) for one in declared if one.name in options]
        changed = [v for one, v in given if one.alias_info and one.alias_info.is_write]
        read = [v for _, v in given if not name.endswith("_like")]
        if name in self.FILL:
            read = [v for v in read if not any(v is filled for filled in changed)]
        moved = tree_leaves((read, changed or result))
        self.bytes += sum(t.nbytes for t in moved if isinstance(t, torch.Tensor))
        return result


def decoder_rates(device: torch.device, batch_size: int) -> dict[str, float]:
    """Pictures of 256 x 320 a second, forward and backward, in turns: of our networks for
    photographs, "semantic only" and "own decoders", and of `rivals.DECODERS` (ModuleNotFoundError
    without the extra `rivals`), which learn the semantic task alone."""
    names = {"semantic": recipes.TASKS["semantic"]}
    design = recipes.PHOTOGRAPHS.model | {"pretrained": False}
    networks = {name: rivals.Rival(names, name, pretrained=False) for name in rivals.DECODERS}
    own = models.FusionModel(recipes.TASKS, **design, sharing="decoders")
    ours = {"semantic only": models.FusionModel(names, **design), "own decoders": own}
    return network_rates(device, ours | networks, (batch_size, 3, 256, 320))


def network_rates(device: torch.device, networks: dict, shape, backward=True) -> dict[str, float]:
    """Pictures a second of networks in turns, by `models.time_step`, as fast as the device allows
    without the compiler; shape is (N, 3, H, W)."""
    images = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
    precision = devices.half_precision(device) if device.type == "cuda" else torch.float32
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last).train(backward)

    def clock(network: nn.Module) -> float:
        return models.time_step(network, images, precision, 3, backward) / 1e3

    return _rates(networks, clock, len(images), turns=5)


def profile(device: torch.device, size, batch_size: int, steps: int) -> dict[str, float]:
    """Shares of the time of plain steps by torch's profiler, see `shares`; on CUDA of the device's
    kernels, among which the loader on the CPU has none."""
    step, _ = _step(device, (), size, batch_size)
    step(), step()  # to warm up
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages are for its authors
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    return shares({event.key: getattr(event, own) for event in profiler.key_averages()})


def shares(spent: dict[str, float]) -> dict[str, float]:
    """Time of each operation -> share of each of `GROUPS`, and of "other"."""
    found = dict.fromkeys([*GROUPS, "other"], 0.0)
    for name, duration in spent.items():
        fits = (g for g, words in GROUPS.items() if any(word in name.lower() for word in words))
        found[next(fits, "other")] += duration / sum(spent.values())
    return found


def data_rate(loader, device: torch.device, batches: int = 10) -> float:
    """Pictures a second that a loader gives, on the device, when nobody else works."""
    stream = _endless(loader)

    def read() -> None:
        for values in next(stream).values():
            values.to(device)

    return loader.batch_size / seconds(read, batches)


def loaders(device: torch.device, size, batch_size: int) -> tuple[DataLoader, ResidentLoader]:
    """The same augmented scenes, from the CPU and kept on the device."""
    tau, changes = recipes.SCENES.tau, {"smallest_crop": 0.4, "light": recipes.SCENES.light}
    transform = v2.Compose([augmentation(size, **changes), targets.RegionTarget(tau)])
    scenes = datasets.Scenes("train", transform=transform)
    on_cpu = DataLoader(scenes, batch_size, shuffle=True, drop_last=True)
    plain = datasets.Scenes("train")
    return on_cpu, ResidentLoader(plain, batch_size, size, tau, device, **changes)


def _step(device: torch.device, on: tuple[str, ...], size, batch_size: int) -> tuple[Callable, str]:
    """A training step with these switches on, and why one of them cannot be."""
    training.seed_everything(0)
    layout = torch.channels_last if "channels-last" in on else torch.contiguous_format
    half, short = devices.half_precision(device), "16-bit numbers" in on
    model = models.FusionModel(recipes.TASKS).to(device, memory_format=layout).train()
    loss, forward, problem = FusionLoss(), model, ""
    fused = "fused optimizer" in on and device.type != "mps"
    foreach = None if fused else False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused, foreach=foreach)
    mixed = torch.autocast(device.type, half, enabled=short)
    scaler = torch.amp.GradScaler(device.type, enabled=short and half == torch.float16)
    batches = _endless(loaders(device, size, batch_size)["data on the device" in on])
    if "compiled" in on:
        images = next(batches)["image"].to(device, memory_format=layout)
        with mixed:
            forward, problem = devices.compiled(model, images)

    def step() -> None:
        values = next(batches).items()
        batch = {name: value.as_subclass(torch.Tensor).to(device) for name, value in values}
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

    return step, problem and f"left out: {problem}"


def _endless(loader):
    return itertools.chain.from_iterable(itertools.repeat(loader))
