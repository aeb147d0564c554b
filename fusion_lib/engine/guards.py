"""What keeps a run from being lost: to interrupts, to a GPU that is gone or has too little memory,
to numbers that are not finite. `training.train` calls these; `states.Run` keeps the state."""

import io
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import torch

from fusion_lib.engine import processes
from fusion_lib.engine.files import write_whole

# What CUDA says when a hosted machine took its GPU back, or a driver or card failed.
LOST_GPU = re.compile(
    "(?s)CUDA error.*(unspecified launch failure|unknown error|no CUDA-capable device|GPU is lost|"
    "busy or unavailable|uncorrectable ECC|system not yet initialized|driver shutting down)"
)


@contextmanager
def explains_a_lost_gpu() -> Iterator[None]:
    """Within (or in a function that this decorates) an error of `LOST_GPU` says what to do."""
    try:
        yield
    except RuntimeError as error:
        if LOST_GPU.search(told := str(error)):
            told = f"the GPU no longer answers ({told.splitlines()[0]}); restart the kernel and run"
            error.args = (f"{told} all cells: with a folder, a run goes on from its last state",)
        raise


class Interrupts(ExitStack):
    """Within, Ctrl-C (a notebook's "interrupt") asks for an end at the next good moment; a second
    one ends now. Of several processes each ends at once: asked at different steps, they would wait
    for each other's saving."""

    asked = False

    def __enter__(self) -> "Interrupts":
        if processes.rank_and_count()[1] == 1:
            with suppress(ValueError):  # only the main thread handles signals
                before = signal.signal(signal.SIGINT, self._ask)  # None: set outside of Python
                before = signal.default_int_handler if before is None else before
                self.callback(signal.signal, signal.SIGINT, before)
        return self

    def _ask(self, *_) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def end_if_asked(self, when: str) -> None:
        """Raise KeyboardInterrupt if it has been asked for; `when` says where the run stands."""
        if self.asked:
            raise KeyboardInterrupt(f"ended {when}, as asked; with a folder, the same call goes on")


def require_finite(
    values: dict, where: str, batches: Iterable[dict], folder: str | Path | None = None
) -> None:
    """Raise a FloatingPointError that names the task, or the gradient, `where`, and pictures that
    are not finite themselves, unless all values are finite: () each, of "total", the tasks' losses
    of the batches, and perhaps the norm of the "gradient". In a folder, the first batch is kept."""
    finite = torch.stack([torch.as_tensor(value).float() for value in values.values()]).isfinite()
    bad = [name for name, fine in zip(values, finite.tolist()) if not fine]
    if not bad:
        return
    tasks = [name for name in bad if name not in ("total", "gradient")] or ["total"]
    what = "gradient" if bad == ["gradient"] else f"loss of task {' and '.join(tasks)}"
    sound = torch.cat([batch["image"].flatten(1).isfinite().all(1) for batch in batches])
    pictures = "" if sound.all() else f", picture {(~sound).nonzero().flatten().tolist()}"
    told = f"the {what} is not finite in {where}{pictures}; lower the learning rate, or look at the"
    told += " images and targets"
    with suppress(OSError):  # the disk is full: the error on its way out matters more
        if folder is not None:
            buffer = io.BytesIO()
            torch.save({name: values.cpu() for name, values in next(iter(batches)).items()}, buffer)
            write_whole(Path(folder, "not_finite.pt"), buffer.getvalue())
            told += " (kept as not_finite.pt)"
    raise FloatingPointError(told)


class Pieces:
    """The gradient of a batch: at once or, where a GPU's memory does not suffice, of two pieces,
    four, and so on. Each is divided by what the whole batch is divided by, so that the gradients
    add up to the batch's; only batch norm sees the pieces.

    Args: descend, forward, loss and backward of (piece, whole), which returns the parts of the
        loss, `whole(outputs)` is what the loss takes as well; forget, drops gradients of a try that
        failed; loss, a `FusionLoss`; divisible, False if a weighting must see the whole batch.
    """

    def __init__(self, descend: Callable, forget: Callable, loss, divisible: bool = True):
        self.descend, self.forget, self.loss, self.count = descend, forget, loss, 1
        self.processes = processes.rank_and_count()[1]
        self.divisible = divisible and self.processes == 1

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """{part: ()} of the batch's loss; torch.cuda.OutOfMemoryError, if one picture alone does
        not fit, or there may be no pieces."""
        try:
            return self._sums(batch)
        except torch.cuda.OutOfMemoryError as error:
            size, advice = len(batch["image"]), "use smaller pictures, or a smaller batch"
            if 2 * self.count > size or not self.divisible:
                told = f"a batch of {size} pictures, {-(-size // self.count)} at a time, does not"
                raise type(error)(f"{told} fit the GPU's memory ({error}); {advice}") from error
        self.count *= 2
        self.forget()
        torch.cuda.empty_cache()
        print(f"out of memory: from now on a batch is {self.count} pieces, which add up")
        return self(batch)

    def _sums(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        def whole(outputs: dict[str, torch.Tensor]) -> tuple:
            if self.count == self.processes == 1:
                return ()
            numbers = self.loss.normalisers(outputs, batch).items()  # their mean over processes:
            return ({t: processes.add_up(n.float()) / self.processes for t, n in numbers},)

        sums: dict[str, torch.Tensor] = {}
        for pieces in zip(*(values.chunk(self.count) for values in batch.values())):
            parts = self.descend(dict(zip(batch, pieces)), whole)
            sums = {name: sums.get(name, 0.0) + part.detach() for name, part in parts.items()}
        return sums


def forget_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory` is the highest since this call (on Linux and GPUs)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
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
