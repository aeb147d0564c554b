"""The state of a run that may be killed at any moment."""

from __future__ import annotations

import io
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from fusion_lib.engine import processes
from fusion_lib.engine.checkpoints import VERSION, _refuse_newer, save_checkpoint
from fusion_lib.engine.files import write_whole
from fusion_lib.models import FusionModel


class Run:
    """What a training run must not lose: the parts that step, random states, losses so far,
    history, best weights.

    In a folder, `state.pt` is the newest state and `state_before.pt` the one before it, should the
    newest be damaged; `best.safetensors` is the best epoch's model. Of several processes, the first
    writes for all.

    Args:
        folder: created if it is not there; None keeps nothing.
        settings: what decides the run's result; a folder with others is refused.
        parts: {name: object with state_dict and load_state_dict}; "model" is among them.
    """

    def __init__(self, folder: str | Path | None, settings: dict, parts: dict):
        self.folder = None if folder is None else Path(folder)
        self.settings, self.parts = settings, parts
        self.history: list[dict] = []  # of the epochs that are done
        self.best: dict = {}  # weights of the best epoch
        self.losses: list[
            dict
        ] = []  # of the batches done in the current epoch: {"total": (), task: ()}
        self.seconds = 0.0  # spent on the current epoch
        self._random: list | None = None

    def resume(self) -> None:
        """Go on from the newest valid state in the folder, if there is one.

        Raises:
            ValueError: no state there can be read, or it is another run's: other settings, another
                model, a newer version.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = [
            path
            for path in (self.folder / "state.pt", self.folder / "state_before.pt")
            if path.exists()
        ]
        for number, path in enumerate(found):
            try:
                state = _read(path)
                break
            except Exception as error:
                problem = f"{path.name} in folder {self.folder.name!r} cannot be read ({error})"
                if number + 1 == len(found):
                    raise ValueError(f"{problem}; {_advice(path)}") from error
                warnings.warn(f"{problem}; going on from the state before it", stacklevel=4)
        else:
            return
        _refuse_newer(path, state["version"])
        changed = {
            k: (state["settings"].get(k), v)
            for k, v in self.settings.items()
            if state["settings"].get(k) != v
        }
        if changed:
            raise ValueError(
                f"folder {self.folder.name!r} holds a run with other settings (theirs, yours):"
                f" {changed}; {_advice(path)}"
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except RuntimeError as error:
            raise ValueError(
                f"folder {self.folder.name!r} holds a run of another model: {error};"
                f" {_advice(path)}"
            ) from error
        self.history, self.best, self.losses = state["history"], state["best"], state["losses"]
        self.seconds, self._random = state["seconds"], state["random"]

    def restore_random(self) -> None:
        """Once after `resume`, if the state was written within an epoch: the random states of that
        moment.

        If there are now more or fewer processes than then, the run goes on with other random draws.
        """
        number, count = processes.rank_and_count()
        if self._random is not None and self.losses and len(self._random) == count:
            _set_random_states(self._random[number])
        self._random = None

    def finish_epoch(self, entry: dict) -> None:
        """Take an epoch's entry into the history, keep the weights if they are the best, and
        save."""
        better = not self.history or entry["val_score"] > max(e["val_score"] for e in self.history)
        self.history.append(entry)
        self.losses, self.seconds = [], 0.0
        model = self.parts["model"]
        if better:
            self.best = {
                name: tensor.detach().clone() for name, tensor in model.state_dict().items()
            }
            if (
                self.folder is not None
                and isinstance(model, FusionModel)
                and processes.rank_and_count()[0] == 0
            ):
                save_checkpoint(
                    model,
                    self.folder / "best.safetensors",
                    epoch=entry["epoch"],
                    val_score=entry["val_score"],
                )
        self.save()

    def save(self) -> None:
        """Write the state as it is now; the last one stays as `state_before.pt`. Every process must
        call this."""
        if self.folder is None:
            return
        random_states = processes.gather(_random_states())
        if processes.rank_and_count()[0] > 0:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "version": VERSION,
            "settings": self.settings,
            "history": self.history,
            "best": self.best,
            "losses": [{name: part.cpu() for name, part in parts.items()} for parts in self.losses],
            "seconds": self.seconds,
            "random": random_states,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        newest = self.folder / "state.pt"
        write_whole(newest, buffer.getvalue(), keep=self.folder / "state_before.pt")


def _read(path: Path) -> dict:
    """The state, on the CPU; every byte is checked against the file's own checksums."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise ValueError(f"{damaged} is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing = {"version", "settings", "history", "best", "losses", "seconds", "random"} - set(state)
    if missing:
        raise ValueError(f"it lacks {sorted(missing)}")
    return state


def _advice(path: Path) -> str:
    return f"move {path.name} away to start the run again, or choose another folder"


def _random_states() -> list:
    """Of Python, NumPy, torch and every CUDA device, of types that torch reads without running
    code."""
    version, numbers, gauss = random.getstate()
    name, key, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [
        [version, list(numbers), gauss],
        [name, key.tolist(), *rest],
        torch.get_rng_state(),
        cuda,
    ]


def _set_random_states(states: list) -> None:
    (version, numbers, gauss), (name, key, *rest), cpu, cuda = states
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state((name, np.array(key, np.uint32), *rest))
    torch.set_rng_state(cpu)
    if len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
