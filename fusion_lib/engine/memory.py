"""Memory: how much of it is used, and a batch in pieces where it does not suffice."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from fusion_lib.engine import processes


class Pieces:
    """Computes the gradient of a batch, and where a GPU's memory does not suffice, in pieces.

    The pieces are two, or four, and so on. Each is divided by what the whole batch is divided by,
    so that their gradients add up to the batch's; only batch norm sees the pieces.

    Args:
        descend: forward, loss and backward of (piece, whole), which adds to the gradients and
            returns the parts of the loss; `whole(outputs)` is what the loss takes as well.
        forget: drops the gradients of a try that failed.
        loss: has `normalisers`, see `losses.FusionLoss`.
        divisible: False where a weighting must see the whole batch.
    """

    def __init__(self, descend: Callable, forget: Callable, loss, divisible: bool = True):
        self.descend, self.forget, self.loss, self.count = descend, forget, loss, 1
        self.processes = processes.rank_and_count()[1]
        self.divisible = divisible and self.processes == 1

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{part: ()} of the batch's loss.

        Raises:
            torch.cuda.OutOfMemoryError: one picture alone does not fit, or there may be no pieces.
        """
        size = len(batch["image"])
        while True:
            try:
                return self._sums(batch, math.ceil(size / self.count))
            except torch.cuda.OutOfMemoryError as error:
                if 2 * self.count > size or not self.divisible:
                    raise type(error)(
                        f"a batch of {size} pictures, {math.ceil(size / self.count)} at a time,"
                        f" does not fit the GPU's memory ({error}); use smaller pictures, or a"
                        " smaller batch"
                    ) from error
            self.count *= 2
            self.forget()
            torch.cuda.empty_cache()
            print(
                f"out of memory: from now on {size} pictures in {self.count} pieces; their"
                " gradients add up to the batch's"
            )

    def _sums(self, batch: dict[str, Tensor], size: int) -> dict[str, Tensor]:
        def whole(outputs: dict[str, Tensor]) -> tuple:
            if self.count == self.processes == 1:
                return ()
            numbers = self.loss.normalisers(outputs, batch).items()  # their mean over processes:
            return ({t: processes.add_up(n.float()) / self.processes for t, n in numbers},)

        sums: dict[str, Tensor] = {}
        for start in range(0, len(batch["image"]), size):
            piece = {name: values[start : start + size] for name, values in batch.items()}
            parts = self.descend(piece, whole)
            sums = {name: sums.get(name, 0.0) + part.detach() for name, part in parts.items()}
        return sums


def forget_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory` is the highest since this call."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or not allowed: the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


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
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
