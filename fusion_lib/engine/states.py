"""The state of a run that may be killed at any moment."""

import copy
import io
import random
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fusion_lib.engine import devices, processes
from fusion_lib.engine.checkpoints import VERSION, refuse_newer, save_checkpoint
from fusion_lib.engine.files import write_whole
from fusion_lib.engine.fingerprints import same
from fusion_lib.models import FusionModel

STATES = ("state.pt", "state_before.pt")  # the newest, and should it be damaged, the one before
LOCK_WAIT = 10  # seconds; a loader's workers outlive a killed run by five, and hold its lock


class Run:
    """What a training run must not lose: the parts that step, random states, losses, history and
    the best weights. In a folder, `state.pt` is the newest state, `state_before.pt` the one before
    it, `best.safetensors` the best epoch's model. Of several processes, the first writes for all.

    Args: folder, made if it is not there, None keeps nothing; settings, what decides the result, a
        folder with others is refused; parts, with state_dict and load_state_dict, one is "model".
    """

    def __init__(self, folder: str | Path | None, settings: dict, **parts):
        self.folder, self.settings, self.parts = Path(folder or "."), settings, parts
        self.rank, self.processes = processes.rank_and_count()
        self.kept_on_disk, self.writes = folder is not None, folder is not None and not self.rank
        self.history: list[dict] = []  # of the epochs that are done
        self.best = copy.deepcopy(parts["model"].state_dict())  # epoch's weights; else last state's
        self.losses: list[dict[str, torch.Tensor]] = []  # of the batches done in the current epoch
        self._random: list = []  # of the batch to go on from
        self._began = time.perf_counter()  # with the current epoch
        self._kept_as = "state_before.pt"  # the newest, when it is no longer that

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the folder is this run's alone, and what it holds is resumed. However it ends,
        the model is left in evaluation mode with the best weights (before the first epoch is done,
        those of the last state), and an exception has the history as its attribute `history`.

        Raises: RuntimeError, another run is at work on the folder; OSError, it cannot be written,
            noticed before anything is computed; ValueError, no state there can be used, or it is of
            another run: other settings, another model. The model is as it was.
        """
        with _locked(self.folder) if self.writes else nullcontext():
            self._resume()
            try:
                try:
                    if len(self.history) < self.settings["epochs"]:
                        self.save()
                    yield
                finally:
                    self.parts["model"].eval().load_state_dict(self.best)
            except BaseException as error:
                error.history = self.history  # type: ignore[attr-defined]
                raise

    def epochs(self, stop_after: int | None) -> Iterator[int]:
        """Numbers of the epochs that are left, at most so many, with a bar in the first process."""
        first, whole = len(self.history), self.settings["epochs"]
        left = range(first, min(whole, first + (stop_after or whole)))
        return iter(left if self.rank else tqdm(left, "epochs", left.stop, initial=first))

    def batches(self, loader, device) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """(number, batch on the device) of what is left of the current epoch. Those of before an
        interruption are drawn once more, so that chance goes the same way, unless there are now
        more or fewer processes than then."""
        if self.processes > 1:
            loader.sampler.set_epoch(len(self.history))
        batches = iter(loader)
        for _ in self.losses:
            next(batches)
        if len(self._random) == self.processes:
            _set_random_states(*self._random[self.rank])
        self._random = []
        return enumerate((devices.to_device(b, device) for b in batches), len(self.losses))

    def finish_epoch(self, entry: dict) -> None:
        """Take an epoch's entry and seconds into the history, keep the best weights, and save."""
        better = not self.history or entry["val_score"] > max(e["val_score"] for e in self.history)
        self.history.append(entry | {"seconds": time.perf_counter() - self._began})
        self.losses, self._began, model = [], time.perf_counter(), self.parts["model"]
        if better:
            self.best = copy.deepcopy(model.state_dict())
            if self.writes and isinstance(model, FusionModel):
                facts = {name: entry[name] for name in ("epoch", "val_score")}
                save_checkpoint(model, self.folder / "best.safetensors", **facts)
        self.save()

    def save(self) -> None:
        """Write the state as it is now. Every process must call this."""
        if not self.history:
            self.best = copy.deepcopy(self.parts["model"].state_dict())
        random_states = processes.gather(_random_states())
        if self.writes:
            state, buffer = self._state(), io.BytesIO()
            torch.save(state | {"random": self._random or random_states}, buffer)
            write_whole(self.folder / "state.pt", buffer.getvalue(), self.folder / self._kept_as)
            self._kept_as = "state_before.pt"

    def _state(self) -> dict:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"version": VERSION, "settings": self.settings, "history": self.history}
        state |= {"best": self.best, "losses": self.losses, "random": self._random}
        return state | {"seconds": time.perf_counter() - self._began}

    def _take(self, state: dict) -> None:
        """Go on from a state; an exception if something is missing, or fits no part."""
        self.parts["model"].load_state_dict(state["best"])  # do they fit?
        for name, part in self.parts.items():
            if state[name]:  # a scaler that was not needed has none
                part.load_state_dict(state[name])
        self.history, self.losses = [*state["history"]], [*state["losses"]]
        self.best, self._random = state["best"], [*state["random"]] if self.losses else []
        self._began = time.perf_counter() - state["seconds"]

    def _resume(self) -> None:
        """Go on from the newest state that can be used, if there is one: all of it or nothing."""
        names = [name for name in STATES if self.kept_on_disk and (self.folder / name).exists()]
        before, problems, folder = copy.deepcopy(self._state()), [], f"folder {self.folder.name!r}"
        for name in names:
            try:
                state = _read(self.folder / name)
                theirs, yours = state["settings"], self.settings
                both = {name: (theirs.get(name), yours.get(name)) for name in yours | theirs}
                differ = {name: values for name, values in both.items() if not same(name, *values)}
                if differ:
                    told = "; ".join(f"{n}: {a!s:.60}, {b!s:.60}" for n, (a, b) in differ.items())
                    problems = [f"{folder} holds a run with other settings (theirs, yours): {told}"]
                    break
                self._take(state)
            except Exception as error:  # of zipfile, pickle, torch, which differ from part to part
                self._take(before)
                told = f"{name} in {folder} cannot be read or is of another model"
                problems.append(f"{told} ({type(error).__name__}: {error})")
                continue
            if problems:
                warnings.warn(f"{problems[0]}; going on from the state before it", stacklevel=6)
                self._kept_as = "state_damaged.pt"
            if self.writes and len(self.history) == yours["epochs"]:
                print(f"{folder} holds this run, finished: nothing to train")
            return
        if problems:
            advice = "away to start the run again, or choose another folder"
            raise ValueError(f"{'; '.join(problems)}; move {' and '.join(names)} {advice}")


def _locked(folder: Path) -> AbstractContextManager:
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
    for left_over in folder.glob("*.[0-9]*.[0-9]*.part"):  # of a run killed in `write_whole`
        with suppress(OSError):
            left_over.unlink()
    return lock  # its file stays: removing it would let a third run in beside one that waits


def _read(path: Path) -> dict:
    """A state, on the CPU; every byte is checked against the file's own checksums."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise ValueError(f"{damaged} is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    refuse_newer(path, state["version"])
    return state


def _random_states() -> list:
    """Of Python, NumPy, torch and all GPUs, in types that torch reads without running code."""
    name, key, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all()
    return [random.getstate(), [name, np.asarray(key).tolist(), *rest], torch.get_rng_state(), cuda]


def _set_random_states(python: tuple, numpy: list, cpu: torch.Tensor, cuda: list) -> None:
    random.setstate(python)
    np.random.set_state(tuple(numpy))
    torch.set_rng_state(cpu)
    if len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
