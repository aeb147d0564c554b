"""What a model costs: parameters, and milliseconds a step."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def time_step(
    model: nn.Module,
    images: torch.Tensor,
    precision: torch.dtype = torch.float32,
    repeats: int = 10,
    backward: bool = True,
) -> float:
    """Median milliseconds of a forward and (with `backward`) a backward pass, after two to warm up.

    Gradients add up in the model's parameters. The computations run with `precision`.
    """
    device = images.device
    waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    synchronize = waits.get(device.type, lambda: None)
    times = []
    for _ in range(repeats + 2):
        synchronize()
        began = time.perf_counter()
        with (
            torch.autocast(device.type, precision, enabled=precision != torch.float32),
            torch.set_grad_enabled(backward),
        ):
            outputs = model(images)
        if backward:
            sum(logits.float().square().mean() for logits in outputs.values()).backward()
        synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times[2:]))
