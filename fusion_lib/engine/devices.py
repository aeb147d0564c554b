"""The device: which one, in which precision, and compiled or not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def choose_device(name: str = "auto") -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU; or the one named (ValueError: it is
    not on this machine)."""
    mps = torch.backends.mps.is_available()
    present = ["cuda"] * torch.cuda.is_available() + ["mps"] * mps + ["cpu"]
    if name != "auto" and name.partition(":")[0] not in present:
        raise ValueError(f"device is {name!r}, which this machine lacks; it has {present}")
    return torch.device(present[0] if name == "auto" else name)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Plain tensors on the device; the image channels-last, in which convolutions run faster."""
    plain = {name: values.as_subclass(Tensor) for name, values in batch.items()}
    moved = {name: values.to(device, non_blocking=True) for name, values in plain.items()}
    return {**moved, "image": moved["image"].contiguous(memory_format=torch.channels_last)}


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on a CUDA device that lacks it; the latter needs its losses scaled."""
    lacks = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    return torch.float16 if lacks else torch.bfloat16


def mixed_precision(device: torch.device) -> tuple[torch.autocast, torch.amp.GradScaler]:
    """16-bit numbers on CUDA, and a scaler that skips steps whose gradient is not finite; elsewhere
    neither does anything. Only float16 needs another scale than 1."""
    cuda, precision = device.type == "cuda", half_precision(device)
    scale, interval = (2.0**16, 2000) if precision == torch.float16 else (1.0, 2**31 - 1)
    scaler = torch.amp.GradScaler(device.type, scale, growth_interval=interval, enabled=cuda)
    return torch.autocast(device.type, precision, enabled=cuda), scaler


def compiled(model: nn.Module, images: Tensor) -> tuple[Callable, str]:
    """The model behind `torch.compile`, tried out both ways on images (N, 3, H, W) as they will
    come, and ""; or where it fails, which differs between machines, the model as it is, and why."""
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


def compiled_at_first_call(model: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
    """The model, which its first call tries to compile; says whether that worked."""
    chosen: Callable | None = None

    def forward(images: Tensor) -> dict[str, Tensor]:
        nonlocal chosen
        if chosen is None:
            chosen, problem = compiled(model, images)
            print(f"not compiled: {problem}" if problem else "compiled")
        return chosen(images)

    return forward
