"""Small runs that several tests start, and what may befall them."""

import errno
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from examples import tiny_loaders, tiny_model, tiny_samples
from torch.utils.data import DataLoader

from fusion_lib.engine import files
from fusion_lib.losses import FusionLoss
from fusion_lib.training import train

CPU = torch.device("cpu")


def run(model=None, loss=None, loaders=None, epochs=3, **options):
    model = tiny_model() if model is None else model
    loaders = tiny_loaders() if loaders is None else loaders
    options = {"learning_rate": 1e-2, "device": CPU, **options}
    return model, train(
        model, FusionLoss() if loss is None else loss, *loaders, epochs=epochs, **options
    )


def without_times(history: list[dict]) -> list[dict]:
    """What a run of the same settings must repeat: all but its cost."""
    return [
        {name: value for name, value in entry.items() if name not in ("seconds", "memory_mib")}
        for entry in history
    ]


def assert_same_weights(one, other) -> None:
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Noisy(torch.utils.data.Dataset):
    """Random augmentation from the three sources of chance a transform may use."""

    def __init__(self, pause: float = 0.0):
        self.samples, self.pause = tiny_samples(6), pause

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        time.sleep(self.pause)
        sample = dict(self.samples[index])
        noise = 0.1 * torch.rand(3, 16, 16) + 0.1 * random.random() + 0.1 * np.random.random()
        sample["image"] = (sample["image"] + noise).float().clamp(0, 1)
        return sample


def noisy_loaders(pause: float = 0.0):
    return DataLoader(Noisy(pause), 2, shuffle=True), DataLoader(tiny_samples(2, seed=1), 2)


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def break_disk(monkeypatch, how: str) -> str:
    """Returns what the system says."""

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    where = {
        "full": (os, "fsync"),
        "read-only": (files, "open"),
        "renaming refused": (os, "replace"),
    }
    monkeypatch.setattr(*where[how], full if how == "full" else refuse, raising=False)
    return "No space left on device" if how == "full" else "Read-only file system"
