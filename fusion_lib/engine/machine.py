"""What a notebook runs on: its accelerator, and how much of a batch its memory holds."""

import os
import platform
import re
from pathlib import Path

import psutil
import torch

# The variables by which hosts of notebooks make themselves known, and how one gets a GPU there.
HOSTS = {
    "KAGGLE_KERNEL_RUN_TYPE": "for one, choose Settings > Accelerator > GPU T4 x2",
    "BINDER_REPO_URL": "Binder has none; Colab and Kaggle lend one",
    "COLAB_RELEASE_TAG": "for one, choose Runtime > Change runtime type > T4 GPU",
}
ELSEWHERE = "none is needed, and Colab and Kaggle lend one"

# Bytes a pixel takes while the largest model of these pages (EfficientNet-Lite0, a decoder a task)
# trains in float32: 2.3 kB kept activations; peak on a CPU 2.5 to 3.3 kB without the decoders' 6%.
BYTES_A_PIXEL = 3328
SHARE = 0.8  # of the free memory; the rest is for what else the notebook holds
SIZES = ((240, 320), (192, 256), (120, 160), (64, 64))  # (H, W): of photographs, ..., of scenes
USUAL_BATCH, LARGEST_BATCH = 8, 64


def accelerator() -> str:
    """The accelerator in words; without one, how to get it on this host."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        others = f", the first of {count}" if count > 1 else ""
        return f"GPU: {torch.cuda.get_device_name()}{others}"
    if torch.backends.mps.is_available():
        return "GPU: Apple MPS"
    advice = next((told for name, told in HOSTS.items() if os.environ.get(name)), ELSEWHERE)
    return f"CPU, threads: {torch.get_num_threads()}; no GPU found ({advice})"


def processor() -> str:
    """The CPU's name as its maker gives it (on Linux), else what Python knows of it."""
    about = Path("/proc/cpuinfo")
    text = about.read_text() if about.exists() else ""
    named = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine() or "CPU"


def free_memory() -> int:
    """Free bytes of the GPU, else of main memory, of which JupyterHub (hence Binder) may allow less
    than its machine has: the variable MEM_LIMIT."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    available, limit = psutil.virtual_memory().available, os.environ.get("MEM_LIMIT", "")
    if limit.isdigit():
        available = min(available, int(limit) - psutil.Process().memory_info().rss)
    return max(0, available)


def fitting(free: int) -> tuple[int, tuple[int, int]]:
    """(batch size, (H, W)) to train with: the largest pictures of which a usual batch fits into
    `free` bytes (negative: a ValueError), and how many of them, a power of two. An estimate for the
    largest model; a smaller model, or half precision, has room for more."""
    if free < 0:
        raise ValueError(f"free is {free}; expected a number of bytes, 0 or more")
    pixels = int(SHARE * free / BYTES_A_PIXEL)
    height, width = next((s for s in SIZES if USUAL_BATCH * s[0] * s[1] <= pixels), SIZES[-1])
    most = max(1, min(LARGEST_BATCH, pixels // (height * width)))
    return 2 ** (most.bit_length() - 1), (height, width)


def describe() -> str:
    """Two lines: the accelerator, or how to get one; free memory, and the batch that it holds."""
    free = free_memory()
    batch, (height, width) = fitting(free)
    fits = f"batches of {batch} pictures of {height} x {width} pixels"
    return f"{accelerator()}\n{free / 2**30:.1f} GiB free: enough to train on {fits}"
