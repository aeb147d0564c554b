"""The state of a run that may be killed at any moment."""

import copy
import io
import random
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from fusion_lib.engine import devices, processes
from fusion_lib.engine.checkpoints import VERSION, refuse_newer, save_checkpoint
from fusion_lib.engine.files import write_whole
from fusion_lib.engine.fingerprints import same
from fusion_lib.models import FusionModel

STATES = ("state.pt", "state_before.pt")  # the newest, and should it be damaged, the one before
DICTS, LISTS = ("settings", "best"), ("history", "losses", "random")  # in a state, beside the parts
LOCK_WAIT = 10  # seconds; a loader's workers outlive a killed run by five, and hold its lock


class Run:
    """What a training run must not lose: the parts that step, random states, losses, history and
    the best weights.

    In a folder, `state.pt` is the newest state and `state_before.pt` the one before it, should the
    newest be damaged; `best.safetensors` is the best epoch's model. Of several processes, the first
    writes for all.

    Args:
        folder: created if it is not there; None keeps nothing.
        settings: what decides the run's result; a folder with others is refused.
        parts: {name: object with state_dict and load_state_dict}; "model" is among them.
    """

    def __init__(self, folder: str | Path | None, settings: dict, parts: dict):
        self.folder, self.settings, self.parts = Path(folder or "."), settings, parts
        self.kept_on_disk = folder is not None
        self.writes = self.kept_on_disk and processes.rank_and_count()[0] == 0
        self.history: list[dict] = []  # of the epochs that are done
        self.best: dict = {}  # weights of the best epoch; before there is one, of the last state
        self.losses: list[dict[str, Tensor]] = []  # of the batches done in the current epoch
        self._random: list | None = None  # of the batch to go on from
        self._began = time.perf_counter()  # with the current epoch
        self._newest_becomes = "state_before.pt"

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the folder is this run's alone, and what it holds is resumed. However it ends,
        the model is left in evaluation mode with the best weights (before the first epoch is done,
        those of the last state), and an exception has the history as its attribute `history`.

        Raises:
            RuntimeError: another run is at work on the folder.
            OSError: the folder cannot be written; noticed before anything is computed.
            ValueError: no state there can be read, or it is another run's: other settings, another
                model, a newer version. The model is as it was.
        """
        with _locked(self.folder) if self.writes else nullcontext():
            self._resume()
            try:
                if len(self.history) < self.settings["epochs"]:
                    self.save()
                elif self.writes:
                    print(f"folder {self.folder.name!r} holds this run, finished: nothing to train")
                yield
            except BaseException as error:
                error.history = self.history  # type: ignore[attr-defined]
                with suppress(RuntimeError):  # a GPU that is gone; the error on its way out says so
                    self._leave_the_best()
                raise
            self._leave_the_best()

    def _leave_the_best(self) -> None:
        self.parts["model"].eval().load_state_dict(self.best)

    def epochs(self, stop_after: int | None) -> Iterator[int]:
        """Numbers of the epochs that are left, at most so many, with a bar."""
        first, whole = len(self.history), self.settings["epochs"]
        last = whole if stop_after is None else min(whole, first + stop_after)
        hidden = {"disable": True} if processes.rank_and_count()[0] else {}  # else TQDM_DISABLE
        return iter(tqdm(range(first, last), "epochs", last, initial=first, **hidden))

    def batches(self, loader, device) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(number, batch on the device) of what is left of the current epoch.

        Batches of before an interruption are drawn once more, so that chance goes the same way. If
        there are now more or fewer processes than then, it goes another way from here.
        """
        number, count = processes.rank_and_count()
        if count > 1:
            loader.sampler.set_epoch(len(self.history))
        batches = iter(loader)
        for _ in self.losses:
            next(batches)
        if self._random is not None and len(self._random) == count:
            _set_random_states(self._random[number])
        self._random = None
        on_device = (devices.to_device(batch, device) for batch in batches)
        return enumerate(on_device, len(self.losses))

    def finish_epoch(self, entry: dict) -> None:
        """Take an epoch's entry into the history with its seconds, keep the weights if they are the
        best, and save."""
        better = not self.history or entry["val_score"] > max(e["val_score"] for e in self.history)
        self.history.append(entry | {"seconds": time.perf_counter() - self._began})
        self.losses, self._began, model = [], time.perf_counter(), self.parts["model"]
        if better:
            self.best = _weights(model)
            if self.writes and isinstance(model, FusionModel):
                facts = {name: entry[name] for name in ("epoch", "val_score")}
                save_checkpoint(model, self.folder / "best.safetensors", **facts)
        self.save()

    def save(self) -> None:
        """Write the state as it is now; the last one becomes `state_before.pt`. Every process must
        call this."""
        if not self.history:
            self.best = _weights(self.parts["model"])
        random_states = processes.gather(_random_states()) if self.kept_on_disk else []
        if not self.writes:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "version": VERSION,
            "settings": self.settings,
            "history": self.history,
            "best": self.best,
            "losses": [{name: part.cpu() for name, part in parts.items()} for parts in self.losses],
            "seconds": time.perf_counter() - self._began,
            "random": self._random or random_states,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        before = self.folder / self._newest_becomes
        write_whole(self.folder / "state.pt", buffer.getvalue(), before)
        self._newest_becomes = "state_before.pt"

    def _resume(self) -> None:
        """Go on from the newest state that can be read and fits, if there is one: all of it or
        nothing."""
        paths = [self.folder / name for name in STATES if self.kept_on_disk]
        paths, problems = [path for path in paths if path.exists()], []
        before = copy.deepcopy({name: part.state_dict() for name, part in self.parts.items()})
        for path in paths:
            try:
                state = _read(path, {*self.parts})
            except Exception as error:  # of zipfile, pickle, torch
                told = f"{path.name} in folder {self.folder.name!r} cannot be read ({error})"
                problems.append((told, error))
                continue
            self._refuse_another_run(path, state)
            try:
                self._load(state)
            except Exception as error:  # torch's own differ from part to part
                self._load(before)
                told = f"folder {self.folder.name!r} holds a run of another model: {error}"
                problems.append((told, error))
                continue
            for told, _ in problems:
                warnings.warn(f"{told}; going on from the state before it", stacklevel=6)
                self._newest_becomes = "state_damaged.pt"
            self.history, self.best, self.losses = state["history"], state["best"], state["losses"]
            self._random = state["random"] if self.losses else None
            self._began = time.perf_counter() - state["seconds"]
            return
        if problems:
            told = "; ".join(dict.fromkeys(told for told, _ in problems))
            raise ValueError(f"{told}; {_advice(self.folder)}") from problems[0][1]

    def _refuse_another_run(self, path: Path, state: dict) -> None:
        refuse_newer(path, state["version"])
        theirs, yours = state["settings"], self.settings
        changed = [
            f"{name}: {theirs.get(name)!s:.60}, {yours.get(name)!s:.60}"
            for name in yours | theirs
            if not same(name, theirs.get(name), yours.get(name))
        ]
        if changed:
            told = f"folder {self.folder.name!r} holds a run with other settings (theirs, yours)"
            raise ValueError(f"{told}: {'; '.join(changed)}; {_advice(self.folder)}")

    def _load(self, state: dict) -> None:
        for name, part in self.parts.items():
            if state[name]:  # a scaler that was not needed has none
                part.load_state_dict(state[name])
        best, own = state.get("best", state["model"]), self.parts["model"].state_dict()
        wrong = [n for n in best | own if _shape(best.get(n)) != _shape(own.get(n))]
        if wrong:
            raise ValueError(f"its best weights differ in {wrong[:3]}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within, no other run may use the folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=LOCK_WAIT).acquire()
    except Timeout:
        advice = "wait until it ends, stop it, or choose another folder"
        raise RuntimeError(f"another run is at work on folder {folder.name!r}; {advice}") from None
    except OSError as error:
        told = f"cannot write folder {folder.name!r} ({error.strerror}); choose another"
        raise OSError(error.errno, told) from error
    with lock:  # its file stays: removing it would let a third run in beside one that waits
        for left_over in folder.glob("*.[0-9]*.[0-9]*.part"):  # of a run killed in `write_whole`
            with suppress(OSError):
                left_over.unlink()
        yield


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return getattr(tensor, "shape", None)


def _advice(folder: Path) -> str:
    there = " and ".join(name for name in STATES if (folder / name).exists())
    return f"move {there} away to start the run again, or choose another folder"


def _weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _read(path: Path, parts: set[str]) -> dict:
    """The state, on the CPU; every byte is checked against the file's own checksums."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise ValueError(f"{damaged} is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    kinds = {"version": int, "seconds": float, **dict.fromkeys((*DICTS, *parts), dict)}
    kinds |= dict.fromkeys(LISTS, list)
    wrong = [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]
    if wrong and not state.get("version", 0) > VERSION:
        raise ValueError(f"it lacks {wrong}")
    return state


def _random_states() -> list:
    """Of Python, NumPy, torch and every CUDA device, of types that torch reads without running
    code."""
    name, key, *rest = cast(tuple, np.random.get_state())
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [random.getstate(), [name, key.tolist(), *rest], torch.get_rng_state(), cuda]


def _set_random_states(states: list) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(tuple(numpy))
    torch.set_rng_state(cpu)
    if len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
