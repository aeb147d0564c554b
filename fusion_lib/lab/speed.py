"""How many pictures a second a training takes in, in whole steps (from the data to the update), and
how near that is to the limit. `bench` prints and stores what is measured here."""

import itertools
import os
import statistics
import timeit
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fusion_lib import models
from fusion_lib.engine import devices
from fusion_lib.lab import recipes, rivals
from fusion_lib.losses import FusionLoss

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
    work()
    return timeit.timeit(work, setup=work, timer=_now, number=repeats) / repeats


def _now() -> float:
    torch.get_device_module(devices.choose_device()).synchronize()
    return timeit.default_timer()


def ladder(device: torch.device, size, batch_size: int, steps: int, compile: bool = True) -> dict:
    """Pictures a second: {"plain": ..., and after each further switch of `SWITCHES`: ...}, or why a
    switch is left out. The default fused model learns scenes, resized; plain is a loader on the
    CPU, 32-bit numbers, the usual memory layout, AdamW step by step, and a look at every loss.
    `steps` are timed in each of three turns; to `compile` takes up to a minute on a CPU."""
    names = ("plain", *SWITCHES)
    found = dict.fromkeys(names, "left out, compiling takes longer than these steps")
    for count, name in enumerate(names if compile else names[:-1]):
        found[name] = _step(device, SWITCHES[:count], size, batch_size)
    clocks = {name: partial(seconds, step, steps) for name, step in found.items() if callable(step)}
    return found | _rates(clocks, batch_size, turns=3)


def _rates(clocks: dict[str, Callable], pictures: float, turns: int) -> dict[str, float]:
    """Pictures by their time, in the median of several turns, in each of which all are timed."""
    times = [[clock() for clock in clocks.values()] for _ in range(turns)]
    return {n: pictures / statistics.median(each) for n, each in zip(clocks, zip(*times))}


def limits(device: torch.device) -> dict[str, float]:
    """What the device does at best in a second: {"operations": of a large product of matrices with
    32-bit or 16-bit numbers, whichever are faster; "bytes": read and written by a large copy}."""
    side, megabytes = (8192, 1024) if device.type == "cuda" else (1024, 64)
    matrix = torch.rand(side, side, device=device)
    short = matrix.to(devices.half_precision(device))
    source = torch.rand(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    products = (lambda: matrix @ matrix, lambda: short @ short)
    product = min(seconds(work, 5) for work in 3 * products)
    copy = min(seconds(lambda: target.copy_(source), 5) for _ in range(3))
    return {"operations": 2 * side**3 / product, "bytes": 2 * source.nbytes / copy}


def needs(device: torch.device, size: tuple[int, int], batch_size: int) -> dict[str, float]:
    """What a training step with all switches but the compiler needs for one picture, its loader
    left out: {"operations": of convolutions; "bytes": read and written by every operation, as if
    nothing stayed in a cache}."""
    step = _step(device, SWITCHES[:-1], size, batch_size)
    step()
    batch = next(iter(loader(size, batch_size, resident=True)))
    with FlopCounterMode(display=False) as counter, _Traffic() as traffic:
        step(batch)
    needed = {"operations": counter.get_total_flops(), "bytes": traffic.bytes}
    return {kind: number / batch_size for kind, number in needed.items()}


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations are given and give. Views and what is left empty move
    nothing; an operation that gives nothing back writes to all that it is given."""

    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        if not operation.is_view and not operation.overloadpacket.__name__.startswith("empty"):
            moved = tree_leaves((arguments, options, arguments if result is None else result))
            self.bytes += sum(t.nbytes for t in moved if isinstance(t, Tensor))
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


def network_rates(device: torch.device, networks: dict, shape) -> dict[str, float]:
    """Pictures a second of networks in turns, forward and backward by `models.time_step`, as fast
    as the device allows without the compiler; shape is (N, 3, H, W)."""
    images = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
    precision = devices.half_precision(device) if device.type == "cuda" else torch.float32
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last).train()
    clocks = {
        n: partial(models.time_step, net, images, precision, 3) for n, net in networks.items()
    }
    return _rates(clocks, 1e3 * len(images), turns=5)


def profile(device: torch.device, size, batch_size: int, steps: int) -> dict[str, float]:
    """Shares of the time of plain steps by torch's profiler, see `shares`; on CUDA of the device's
    kernels, among which the loader on the CPU has none."""
    step = _step(device, (), size, batch_size)
    step(), step()  # to warm up
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages are for its authors
    with torch.profiler.profile() as profiler:
        for _ in range(steps):
            step()
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return shares({event.key: getattr(event, own) for event in profiler.key_averages()})


def shares(spent: dict[str, float]) -> dict[str, float]:
    """Time of each operation -> share of each of `GROUPS`, and of "other"."""
    found = dict.fromkeys([*GROUPS, "other"], 0.0)
    for name, duration in spent.items():
        fits = (g for g, words in GROUPS.items() if any(word in name.lower() for word in words))
        found[next(fits, "other")] += duration / sum(spent.values())
    return found


def data_rate(device: torch.device, size, batch_size: int, resident: bool) -> float:
    """Pictures a second that `loader` gives, on the device, when nobody else works."""
    stream = _endless(loader(size, batch_size, resident))
    return batch_size / seconds(lambda: devices.to_device(next(stream), device), 30)


def loader(size, batch_size: int, resident: bool):
    """Augmented scenes, from the CPU, or kept on the device that `devices.choose_device` finds."""
    changed = {"size": size, "batch_size": batch_size, "smallest_crop": 0.4, "resident": resident}
    return recipes.loaders(replace(recipes.SCENES, **changed), recipes.TASKS)[0]


def _step(device: torch.device, on: tuple[str, ...], size, batch_size: int) -> Callable | str:
    """A training step with these switches on, or why one of them cannot be."""
    layout = torch.channels_last if "channels-last" in on else torch.contiguous_format
    half, short = devices.half_precision(device), "16-bit numbers" in on
    model = forward = models.FusionModel(recipes.TASKS).to(device, memory_format=layout).train()
    loss = FusionLoss()
    fused = "fused optimizer" in on and device.type != "mps"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused, foreach=False)
    mixed = torch.autocast(device.type, half, enabled=short)
    scaler = torch.amp.GradScaler(device.type, enabled=short and half == torch.float16)
    batches = _endless(loader(size, batch_size, "data on the device" in on))
    if "compiled" in on:
        images = next(batches)["image"].to(device, memory_format=layout)
        with mixed:
            forward, problem = devices.compiled(model, images)
        if problem:
            return f"left out: {problem}"

    def step(batch: dict[str, Tensor] | None = None) -> None:
        batch = {n: v.as_subclass(Tensor).to(device) for n, v in (batch or next(batches)).items()}
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

    return step


def _endless(loader):
    return itertools.chain.from_iterable(itertools.repeat(loader))
