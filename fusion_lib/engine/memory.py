"""Memory: how much of it is used, and a batch in pieces where it does not suffice."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from fusion_lib.engine import processes


class Pieces:
    """Computes the gradient of a batch: at once or, where a GPU's memory does not suffice, in two
    pieces, four, and so on.

    Each piece is divided by what the whole batch is divided by, so that the gradients add up to the
    batch's; only batch norm sees the pieces.

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
            at_once = math.ceil(size / self.count)
            try:
                return self._sums(batch, at_once)
            except torch.cuda.OutOfMemoryError as error:
                if 2 * self.count > size or not self.divisible:
                    told = (
                        f"a batch of {size} pictures, {at_once} at a time, does not fit the GPU's"
                    )
                    advice = "use smaller pictures, or a smaller batch"
                    raise type(error)(f"{told} memory ({error}); {advice}") from error
            self.count *= 2
            self.forget()
            torch.cuda.empty_cache()
            print(
                f"out of memory: from now on {size} pictures in {self.count} pieces, which add up"
            )

    def _sums(self, batch: dict[str, Tensor], size: int) -> dict[str, Tensor]:
        def whole(outputs: dict[str, Tensor]) -> tuple:
            if self.count == self.processes == 1:
                return ()
            numbers = self.loss.normalisers(outputs, batch).items()  # their mean over processes:
            return ({t: processes.add_up(n.float()) / self.processes for t, n in numbers},)

        sums: dict[str, Tensor] = {}
        for pieces in zip(*(values.split(size) for values in batch.values())):
            parts = self.descend(dict(zip(batch, pieces)), whole)
            sums = {name: sums.get(name, 0.0) + part.detach() for name, part in parts.items()}
        return sums


def forget_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory` is the highest since this call (on Linux and GPUs)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """MiB: of the GPU's memory, or of the process (which holds Python and torch too). Where the
    system does not state the highest, as on macOS, what is in use now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    peak = status.read_text().partition("VmHWM:")[2].split() if status.exists() else []
    now = psutil.Process().memory_info()
    return int(peak[0]) / 2**10 if peak else getattr(now, "peak_wset", now.rss) / 2**20
