"""What keeps a run from being lost: to interrupts, to a GPU that is gone, to numbers that are not
finite. `training.train` calls these; the state itself is kept by `states.Run`."""

from __future__ import annotations

import io
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from fusion_lib.engine import processes
from fusion_lib.engine.files import write_whole

# What CUDA says when a hosted machine took its GPU back, or a driver or card failed.
LOST_GPU = re.compile(
    "unspecified launch failure|unknown error|no CUDA-capable device|GPU is lost|"
    r"device\(s\) is/are busy or unavailable|uncorrectable ECC error|"
    "system not yet initialized|driver shutting down"
)


@contextmanager
def explains_a_lost_gpu() -> Iterator[None]:
    """Within (or in a function that this decorates) an error of `LOST_GPU` says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "CUDA error" not in str(error) or not LOST_GPU.search(str(error)):
            raise
        lost = RuntimeError(
            f"the GPU no longer answers ({str(error).splitlines()[0]}); restart the kernel and run"
            " the cells again: with a folder, a run goes on from its last state, else anew"
        )
        lost.history = getattr(error, "history", [])  # type: ignore[attr-defined]
        raise lost from error


class Interrupts:
    """Within, Ctrl-C (a notebook's "interrupt") asks for an end at the next good moment; a second
    one ends now.

    Of several processes each ends at once: asked at different steps, they would wait for each
    other's saving.
    """

    def __enter__(self) -> Interrupts:
        self.asked, self.before = False, None
        main = threading.current_thread() is threading.main_thread()  # others handle no signals
        if main and processes.rank_and_count()[1] == 1:
            before = signal.signal(signal.SIGINT, self._ask)  # None: set outside of Python
            self.before = signal.default_int_handler if before is None else before
        return self

    def __exit__(self, *_) -> None:
        if self.before is not None:  # SIG_DFL is 0
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, *_) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def end_if_asked(self, when: str) -> None:
        """Raise KeyboardInterrupt if it has been asked for; `when` says where the run stands."""
        if self.asked:
            goes_on = "with a folder, the same call goes on from here"
            raise KeyboardInterrupt(f"ended {when}, as asked; {goes_on}")


class FiniteSteps:
    """Lets no step be taken on a loss or a gradient that is not finite.

    To look at a GPU's numbers is to wait for them, so there 20 batches are looked at together.
    Until then, from the first fault on, `scale` makes every gradient NaN, and the scaler, which is
    enabled there, skips their steps.

    Args:
        scaler: of mixed precision. Where its scale is not 1 it looks for the right one, and a
            gradient that overflows on the way is no fault.
        folder: where the batch at fault is kept as not_finite.pt; None keeps nothing.
    """

    def __init__(self, scaler: torch.amp.GradScaler, folder: str | Path | None):
        self.scaler, self.folder = scaler, folder
        self.look_every = 20 if scaler.is_enabled() else 1
        self.searches = scaler.is_enabled() and scaler.get_scale() != 1
        self.sound: Tensor | float = 1.0  # NaN from the first fault on
        self.unseen: list[tuple] = []

    def scale(self, loss: Tensor) -> Tensor:
        """What to call backward on."""
        return self.scaler.scale(loss * self.sound)

    def check(self, parts: dict[str, Tensor], norm: Tensor, batch: dict, where: str) -> None:
        """Before a step, with its loss's parts and its gradient's norm; raises as `look`."""
        norm = torch.zeros_like(norm) if self.searches else norm
        self.unseen.append(({**parts, "gradient": norm}, where, [batch]))
        self.sound = self.sound * (1 + 0 * (parts["total"] + norm))
        if len(self.unseen) >= self.look_every:
            self.look()

    def look(self) -> None:
        """Look at the batches since the last look.

        Raises:
            FloatingPointError: a number is not finite; names the task (or the gradient), the batch,
                and the pictures in it that are not finite.
        """
        for values, where, batch in self.unseen:
            self._require_finite(values, where, batch)
        self.unseen = []
        if self.searches and self.scaler.get_scale() < 1e-3:  # halved at every one of many steps
            raise FloatingPointError("no gradient of the last batches was finite; see their images")

    def check_scores(self, scores: dict, loader: Iterable[dict], where: str) -> None:
        """`look`, then the same for a validation's losses; counts the loader's pictures."""
        self.look()
        names = [n for n in scores if re.match("val_(?!miou_|score)", n)]
        losses = {name.removeprefix("val_"): torch.tensor(scores[name]) for name in names}
        self._require_finite(losses, where, loader)

    def _require_finite(self, values: dict, where: str, batches: Iterable[dict]) -> None:
        finite = torch.stack([value.float() for value in values.values()]).isfinite().tolist()
        bad = [name for name, fine in zip(values, finite) if not fine]
        if not bad:
            return
        tasks = [name for name in bad if name not in ("total", "gradient")] or ["total"]
        what = "gradient" if bad == ["gradient"] else f"loss of task {' and '.join(tasks)}"
        sound = torch.cat([batch["image"].flatten(1).isfinite().all(1) for batch in batches])
        pictures = f", picture {(~sound).nonzero().flatten().tolist()}" if not sound.all() else ""
        raise FloatingPointError(
            f"the {what} is not finite in {where}{pictures}; lower the learning rate, or look at"
            f" the images and targets{self._kept(batches)}"
        )

    def _kept(self, batches: Iterable[dict]) -> str:
        with suppress(OSError):  # the disk is full: the error on its way out matters more
            if self.folder is not None and isinstance(batches, list):
                buffer = io.BytesIO()
                torch.save({name: values.cpu() for name, values in batches[0].items()}, buffer)
                write_whole(Path(self.folder, "not_finite.pt"), buffer.getvalue())
                return " (kept as not_finite.pt)"
        return ""
