"""How many pictures a second a training run takes in, with one switch after another turned on.

    python -m fusion_lib.speed      # prints a table for this machine

Every figure is of whole steps: data, forward, both losses, backward, clipping, update.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from fusion_lib import datasets, machine, models, recipes, targets, training
from fusion_lib.losses import FusionLoss
from fusion_lib.resident import ResidentLoader
from fusion_lib.transforms import augmentation

# What the names of operations hold, on a CPU and on a GPU; the first group that fits has it.
GROUPS = {
    "convolutions": ("conv", "gemm", "dgrad", "wgrad"), "loader": ("dataloader",), "batch norm": ("batch_norm", "batchnorm", "bn_"),
    "resizing": ("upsample",), "loss": ("softmax", "nll"), "optimizer": ("optimizer", "adam"),
}  # fmt: skip
SWITCHES = ("data on the device", "channels-last", "16-bit numbers", "fused optimizer", "no waiting", "compiled")


def ladder(
    device: torch.device, size: tuple[int, int] = (240, 320), batch_size: int = 8, steps: int = 10, compile: bool = True
) -> dict[str, float | str]:
    """Pictures a second: {"plain": ..., and after each further switch of `SWITCHES`: ...}, or why a switch is left out.

    Plain is a loader on the CPU, 32-bit numbers, the usual memory layout, AdamW step by step, and a look at the loss
    after every step. All switches before it stay on. The model is the default fused model; pictures are scenes, resized.

    Args:
        steps: timed steps, after two to warm up.
        compile: try the last switch too, which takes up to a minute on a CPU.
    """
    rates: dict[str, float | str] = {}
    for count in range(len(SWITCHES) + 1):
        on = SWITCHES[:count]
        name = on[-1] if on else "plain"
        if name == "compiled" and not compile:
            rates[name] = "left out, compiling takes longer than these steps"
            continue
        step, note = _step(device, on, size, batch_size)
        rates[name] = note or _pictures_a_second(step, device, batch_size, steps)
    return rates


def profile(device: torch.device, size: tuple[int, int], batch_size: int, steps: int) -> dict[str, float]:
    """Shares of the time of plain steps, {group: share}, by torch's profiler; "other" is all that is in no group.

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
    own = {event.key: event.self_device_time_total if cuda else event.self_cpu_time_total for event in profiler.key_averages()}
    shares = dict.fromkeys(GROUPS, 0.0)
    for name, spent in own.items():
        group = next((group for group, words in GROUPS.items() if any(word in name.lower() for word in words)), None)
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


def loaders(device: torch.device, size: tuple[int, int], batch_size: int) -> tuple[DataLoader, ResidentLoader]:
    """The same augmented scenes, from the CPU and kept on the device."""
    recipe = recipes.SCENES
    steps = [augmentation(size, smallest_crop=0.4, light=recipe.light), targets.RegionTarget(recipe.tau)]
    on_cpu = DataLoader(datasets.Scenes("train", transform=v2.Compose(steps)), batch_size, shuffle=True, drop_last=True)
    on_device = ResidentLoader(datasets.Scenes("train"), batch_size, size, recipe.tau, device, smallest_crop=0.4, light=recipe.light)
    return on_cpu, on_device


def _step(device: torch.device, on: tuple[str, ...], size, batch_size: int) -> tuple[Callable, str]:
    training.seed_everything(0)
    layout = torch.channels_last if "channels-last" in on else torch.contiguous_format
    model = models.FusionModel(recipes.TASKS).to(device, memory_format=layout).train()
    loss, forward, note = FusionLoss(), model, ""
    fused = "fused optimizer" in on and device.type != "mps"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused, foreach=False if not fused else None)
    mixed = torch.autocast(device.type, training.half_precision(device), enabled="16-bit numbers" in on)
    scaler = torch.amp.GradScaler(device.type, enabled="16-bit numbers" in on and training.half_precision(device) == torch.float16)
    batches = _endless(loaders(device, size, batch_size)["data on the device" in on])
    if "compiled" in on:
        with mixed:
            forward, note = training.compiled(model, next(batches)["image"].to(device, memory_format=layout))

    def step() -> None:
        batch = {name: values.as_subclass(torch.Tensor).to(device) for name, values in next(batches).items()}
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
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
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


def main() -> None:
    """Print the ladder at 240 x 320, what the data paths give, and the fused step against two networks'."""
    device = training.choose_device()
    size, batch_size, steps = (240, 320), 32 if device.type == "cuda" else 8, 50 if device.type == "cuda" else 4
    print(f"{machine.describe()}; torch {torch.__version__}; {batch_size} pictures of {size[0]} x {size[1]}")
    rates = ladder(device, size, batch_size, steps)
    for name, rate in rates.items():
        print(f"{name:20}", rate if isinstance(rate, str) else f"{rate:8.1f} pictures a second, {rate / rates['plain']:.2f} of plain")
    for name, loader in zip(("loader on the CPU", "data on the device"), loaders(device, size, batch_size)):
        print(f"{name:20} gives {data_rate(loader, device, steps):8.1f} pictures a second")
    images = torch.rand(batch_size, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    zoo = {"fused": models.FusionModel(recipes.TASKS), "two networks": models.TwoNetworks(recipes.TASKS)}
    times = {name: [] for name in zoo}
    for _ in range(3):
        for name, model in zoo.items():
            model = model.to(device, memory_format=torch.channels_last).train()
            times[name].append(training.time_step(model, images, training.half_precision(device) if device.type == "cuda" else torch.float32, 5))
    ratio = sorted(f / t for f, t in zip(*times.values()))[1]
    print(f"a fused step takes {ratio:.2f} of two networks' step")


if __name__ == "__main__":
    sys.exit(main())
