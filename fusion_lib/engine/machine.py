"""What a notebook runs on: its host, its accelerator, and how much of a batch its memory holds."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

# The variables by which hosts of notebooks make themselves known, and how one gets a GPU there.
HOSTS = {
    "Kaggle": ("KAGGLE_KERNEL_RUN_TYPE", "for one, choose Settings > Accelerator > GPU T4 x2"),
    "Binder": ("BINDER_REPO_URL", "Binder has none; Colab and Kaggle lend one"),
    "Colab": ("COLAB_RELEASE_TAG", "for one, choose Runtime > Change runtime type > T4 GPU"),
}
ELSEWHERE = "none is needed, and Colab and Kaggle lend one"

# Bytes a picture's pixel takes while the largest model of these pages (EfficientNet-Lite0, a
# decoder a task) trains in float32: kept activations 2.3 kB; peak of a whole step, measured on a
# CPU with a last block a task, 2.5 kB (batch of 8) to 3.3 kB (of 1), and 6% more with decoders.
BYTES_A_PIXEL = 3328
SHARE = 0.8  # of the free memory; the rest is for what else the notebook holds
# (H, W): photographs whole, as recipes shrink them, scenes
SIZES = ((240, 320), (192, 256), (120, 160), (64, 64))
USUAL_BATCH, LARGEST_BATCH = 8, 64


def host(environment: Mapping[str, str] = os.environ) -> str | None:
    """Colab, Kaggle or Binder, as the environment's variables say; None anywhere else."""
    return next((name for name, (variable, _) in HOSTS.items() if environment.get(variable)), None)


def accelerator(environment: Mapping[str, str] = os.environ) -> str:
    """The accelerator in words; without one, how to get it on this host."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        others = f", the first of {count}" if count > 1 else ""
        return f"GPU: {torch.cuda.get_device_name()}{others}"
    if torch.backends.mps.is_available():
        return "GPU: Apple MPS"
    name = host(environment)
    advice = HOSTS[name][1] if name else ELSEWHERE
    return f"CPU, threads: {torch.get_num_threads()}; no GPU found ({advice})"


def processor() -> str:
    """The CPU's name as its maker gives it (on Linux), else what Python knows of it."""
    about = Path("/proc/cpuinfo")
    text = about.read_text() if about.exists() else ""
    named = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine() or "CPU"


def free_memory(environment: Mapping[str, str] = os.environ) -> int:
    """Free bytes of the GPU, or of main memory where there is none (or they are one, as with MPS).

    JupyterHub, hence Binder, may allow less than its machine has: the variable MEM_LIMIT.
    """
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    available, limit = psutil.virtual_memory().available, environment.get("MEM_LIMIT", "")
    if limit.isdigit():
        available = min(available, int(limit) - psutil.Process().memory_info().rss)
    return max(0, available)


def fitting(free: int) -> tuple[int, tuple[int, int]]:
    """(batch size, (H, W)) to train with: the largest pictures of which a usual batch fits.

    The batch size is a power of two from 1 to `LARGEST_BATCH`. It is an estimate for the largest
    model; a smaller model, or half precision, has room for more.

    Raises:
        ValueError: `free`, a number of bytes, is negative.
    """
    if free < 0:
        raise ValueError(f"free is {free}; expected a number of bytes, 0 or more")
    pixels = SHARE * free / BYTES_A_PIXEL
    height, width = next((s for s in SIZES if USUAL_BATCH * s[0] * s[1] <= pixels), SIZES[-1])
    batch = 1
    while batch < LARGEST_BATCH and 2 * batch * height * width <= pixels:
        batch *= 2
    return batch, (height, width)


def describe(environment: Mapping[str, str] = os.environ) -> str:
    """Two lines: the accelerator, or how to get one; free memory, and the batch that it holds."""
    free = free_memory(environment)
    batch, (height, width) = fitting(free)
    return (
        f"{accelerator(environment)}\n{free / 2**30:.1f} GiB free: enough to train on batches of"
        f" {batch} pictures of {height} x {width} pixels"
    )
