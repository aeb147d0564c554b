"""What a model costs: parameters, and milliseconds a step."""

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
    """Median milliseconds of a forward and (with `backward`) a backward pass, after two to warm up,
    computed with `precision`. Gradients add up in the model's parameters."""
    synchronize = torch.get_device_module(images.device).synchronize
    mixed = torch.autocast(images.device.type, precision, enabled=precision != torch.float32)
    times = []
    for _ in range(repeats + 2):
        synchronize()
        began = time.perf_counter()
        with mixed, torch.set_grad_enabled(backward):
            outputs = model(images)
        if backward:
            sum(logits.float().square().mean() for logits in outputs.values()).backward()
        synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times[2:]))
