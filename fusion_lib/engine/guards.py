"""What keeps a run from being lost: to interrupts, to a GPU that is gone, to losses that are not
finite.

`training.train` calls these. The state itself is kept by `states.Run`.
"""

from __future__ import annotations

import functools
import io
import math
import signal
import threading
from collections.abc import Callable

import torch

from fusion_lib.engine import processes
from fusion_lib.engine.files import write_whole
from fusion_lib.engine.states import Run

# What CUDA says when a GPU that was there is gone: a hosted machine took it back, a driver or a
# card failed.
LOST_GPU = (
    "unspecified launch failure",
    "unknown error",
    "no CUDA-capable device",
    "device(s) is/are busy or unavailable",
    "GPU is lost",
    "uncorrectable ECC error",
    "system not yet initialized",
    "driver shutting down",
)


def explains_a_lost_gpu(function: Callable) -> Callable:
    """Decorates a function whose CUDA error, if it is one of `LOST_GPU`, shall say what to do;
    other errors stay as they are."""

    @functools.wraps(function)
    def explained(*arguments, **options):
        try:
            return function(*arguments, **options)
        except RuntimeError as error:
            if "CUDA error" not in str(error) or not any(words in str(error) for words in LOST_GPU):
                raise
            kept = (
                "the run goes on from its last saved state"
                if options.get("folder")
                else "this run had no folder, and begins anew"
            )
            raise RuntimeError(
                f"the GPU no longer answers ({str(error).splitlines()[0]}); restart the kernel and"
                f" run the cells again: {kept}, on the CPU if there is no GPU any more"
            ) from error

    return explained


class Interrupts:
    """While this is entered, Ctrl-C (a notebook's "interrupt") asks for an end at the next good
    moment; a second ends now.

    Of several processes each ends at once: they would be asked at different steps, and wait for
    each other's saving.
    """

    def __enter__(self) -> Interrupts:
        self.asked = False
        main = (
            threading.current_thread() is threading.main_thread()
        )  # only there signals can be handled
        self.ours = main and processes.rank_and_count()[1] == 1
        if self.ours:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_) -> None:
        if self.ours:
            signal.signal(signal.SIGINT, self.before or signal.default_int_handler)

    def _ask(self, *_) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def end_if_asked(self, when: str) -> None:
        """Raise KeyboardInterrupt if it has been asked for; `when` says where the run stands."""
        if self.asked:
            raise KeyboardInterrupt(
                f"ended {when}, as asked; if it had a folder, the same call goes on from here"
            )


def require_finite(run: Run, batches: list[dict], where: str) -> None:
    """Look at the losses of the last batches. If one is not finite, keep that batch, and stop.

    Args: batches, those of the last losses in `run.losses`; where, for the message.
    Raises: FloatingPointError; `run`'s best weights are put back if steps were taken since.
    """
    first = len(run.losses) - len(batches)
    for number, (parts, batch) in enumerate(zip(run.losses[first:], batches), first):
        losses = {name: part.item() for name, part in parts.items()}
        if all(map(math.isfinite, losses.values())):
            continue
        kept = ""
        if run.folder is not None:
            buffer = io.BytesIO()
            torch.save({name: values.cpu() for name, values in batch.items()}, buffer)
            write_whole(run.folder / "not_finite.pt", buffer.getvalue())
            kept = " (kept as not_finite.pt)"
        if run.best and len(batches) > 1:  # steps were taken since
            run.parts["model"].load_state_dict(run.best)
        name_not_finite(losses, f"{where}, batch {number}", kept)


def name_not_finite(losses: dict[str, float], where: str, kept: str = "") -> None:
    """Raise FloatingPointError if one of {part: loss} is not finite; says which, `where`, and what
    to do."""
    if not all(map(math.isfinite, losses.values())):
        bad = [
            name for name, value in losses.items() if name != "total" and not math.isfinite(value)
        ]
        raise FloatingPointError(
            f"the loss of task {' and '.join(bad) or 'total'} is not finite in {where}; "
            f"lower the learning rate, or look at that batch's image and targets{kept}"
        )
