"""The device: which one, in which precision, compiled or not, and how much of its memory is used."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn


def choose_device(name: str = "auto") -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU; or the one named.

    Raises:
        ValueError: the named device is not on this machine.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if not present.get(name.partition(":")[0], False):
        raise ValueError(
            f"device is {name!r}, which this machine lacks; it has"
            f" {[d for d, t in present.items() if t]}"
        )
    return torch.device(name)


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on a CUDA device that lacks it; the latter needs its losses scaled."""
    lacks = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    return torch.float16 if lacks else torch.bfloat16


def compiled(model: nn.Module, images: torch.Tensor) -> tuple[nn.Module, str]:
    """The model behind `torch.compile`, tried out forward and backward, and ""; or the model as it
    is, and why.

    Both share their weights. What fails to compile differs between machines: a missing C++
    compiler, an old GPU.

    Args:
        images: (N, 3, H, W) on the model's device, as they will come; another shape compiles once
            more.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    faster = torch.compile(model)
    try:
        sum(logits.float().mean() for logits in faster(images).values()).backward()
        return faster, ""
    except Exception as error:  # the compiler's own exceptions differ from version to version
        return model, f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(buffers, strict=False)  # statistics of batch norm, as they were


def forget_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory` is the highest since this call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the whole process
        pass


def peak_memory(device: torch.device) -> float:
    """MiB: of the GPU's memory, or of the process (which holds Python and torch too)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    peak = status.read_text().partition("VmHWM:")[2].split() if status.exists() else []
    if peak:  # Linux; what getrusage says there may be the parent process's
        return int(peak[0]) / 2**10
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )
