"""The training loop, what it remembers, and how it survives an interruption.

`train` is plain PyTorch and meant to be read. Every epoch starts from a seed of its own, so that a run
that was killed and resumed at an epoch's start goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from fusion_lib.losses import ALL_TARGET_KEYS, FusionLoss
from fusion_lib.models import FusionModel
from fusion_lib.scenes import SEMANTIC_VOID
from fusion_lib.weighting import PlainSum


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def choose_device(name: str = "auto") -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU; or the one named.

    Raises:
        ValueError: the named device is not on this machine.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if not present.get(name.partition(":")[0], False):
        raise ValueError(f"device is {name!r}, which this machine lacks; it has {[d for d, t in present.items() if t]}")
    return torch.device(name)


def train(
    model: nn.Module,
    loss: FusionLoss,
    train_loader: DataLoader,
    val_loader: DataLoader,
    *,
    epochs: int,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    gradient_clip: float = 1.0,
    seed: int = 0,
    device: torch.device | None = None,
    weighting: PlainSum | None = None,
    folder: str | Path | None = None,
    stop_after: int | None = None,
) -> list[dict]:
    """Train by gradient descent on the summed loss; leaves the best weights in `model`.

    AdamW with a one-cycle learning rate (Smith & Topin 2018), gradients clipped to a norm. The best
    epoch is the one with the highest mean over the tasks of the mIoU of their pixel classes on `val_loader`.

    Args:
        model: maps images to {task: logits}.
        loss: maps outputs and batch to {"total": ..., task: ...}.
        train_loader, val_loader: yield {"image": float (N, 3, H, W), "semantic": ..., "region_target": ...}.
        epochs: length of the whole run; the learning rate's cycle ends there.
        learning_rate: the highest of the cycle.
        gradient_clip: largest allowed norm of the gradient of all parameters together.
        seed: decides shuffling and augmentation; the initial weights are the caller's.
        device: default `choose_device()`. On CUDA, mixed precision is used (bfloat16 where the hardware has it).
        weighting: how the tasks' losses become one update, see `weighting`; default the plain sum of `loss`. With
            another one the run cannot be resumed, so `folder` must be None.
        folder: where to keep `state.pt` after every epoch and `best.safetensors`. A run found there is resumed.
        stop_after: end this call after so many epochs, as an interruption would.

    Returns:
        One dict an epoch: "epoch", "learning_rate", "seconds", "memory_mib" (highest in use so far), "train_total",
        "train_<task>", "val_total", "val_<task>", "val_miou_<task>", "val_score", and what the weighting remembers.

    Raises:
        FloatingPointError: a loss is not finite; names the task, the epoch and the batch.
        ValueError: `folder` holds a run with other settings, or a state that cannot be read; or nothing is to be
            done; or `folder` and `weighting` are both given.
    """
    if folder is not None and weighting is not None:
        raise ValueError("folder and weighting are both given; a run with a weighting cannot be resumed, leave one out")
    weighting = weighting or PlainSum()
    if epochs < 1 or (stop_after is not None and stop_after < 1) or not len(train_loader):
        raise ValueError(
            f"epochs is {epochs}, stop_after {stop_after}, and train_loader has {len(train_loader)} batches; "
            "expected at least one of each"
        )
    device = device or choose_device()
    model = model.to(device, memory_format=torch.channels_last)  # on a CPU too, convolutions run faster so
    loss = loss.to(device)
    steps = epochs * len(train_loader)
    groups = [{"params": list(model.parameters())}, {"params": weighting.learned(device), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=learning_rate, weight_decay=weight_decay, fused=device.type != "mps"
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    precision = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    mixed = torch.autocast(device.type, precision, enabled=device.type == "cuda")
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and precision == torch.float16)
    settings = {"epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay,
                "gradient_clip": gradient_clip, "seed": seed, "steps": steps,
                "task_weights": loss.task_weights}  # fmt: skip
    run = _Run(folder, settings, {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler})
    run.resume(device)
    last = epochs if stop_after is None else min(epochs, len(run.history) + stop_after)
    _forget_peak_memory(device)
    bar = tqdm(total=last, initial=len(run.history), desc="epochs")
    while len(run.history) < last:
        epoch, began = len(run.history), time.perf_counter()
        seed_everything(1_000_003 * (seed + 1) + epoch)
        model.train()
        sums: dict[str, float] = {}
        for number, batch in enumerate(train_loader):
            batch = _to_device(batch, device)
            with mixed:
                parts = loss(model(batch["image"]), batch)
            values = {name: part.item() for name, part in parts.items()}
            _require_finite(values, f"epoch {epoch}, batch {number}")
            optimizer.zero_grad(set_to_none=True)
            weighting.backward(parts, model, scaler.scale)
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            weighting.after_step(lambda: loss(model(batch["image"]), batch))  # only FAMO looks
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
        entry = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0]}
        entry |= {f"train_{name}": total / len(train_loader) for name, total in sums.items()}
        entry |= weighting.end_epoch() | validate(model, loss, val_loader, device)
        _require_finite({name: entry[f"val_{name}"] for name in sums}, f"the validation after epoch {epoch}")
        entry |= {"seconds": time.perf_counter() - began, "memory_mib": _peak_memory(device)}
        run.finish_epoch(entry)
        bar.update()
    bar.close()
    model.load_state_dict(run.best)
    return run.history


def time_step(
    model: nn.Module, images: torch.Tensor, precision: torch.dtype = torch.float32, repeats: int = 10, backward: bool = True
) -> float:
    """Median milliseconds of one forward and (unless told otherwise) backward pass, after two to warm up."""
    device = images.device
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for _ in range(repeats + 2):
        synchronize()
        began = time.perf_counter()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32), torch.set_grad_enabled(backward):
            outputs = model(images)
        if backward:
            sum(logits.float().square().mean() for logits in outputs.values()).backward()
        synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times[2:]))


@torch.no_grad()
def validate(model: nn.Module, loss: FusionLoss, loader: DataLoader, device: torch.device) -> dict[str, float]:
    """Mean loss and mIoU of each task's pixel classes (macro over the classes present) over a loader."""
    from torchmetrics.classification import MulticlassJaccardIndex

    model.eval()
    sums: dict[str, float] = {}
    scores: dict[str, MulticlassJaccardIndex] = {}
    for batch in loader:
        batch = _to_device(batch, device)
        outputs = model(batch["image"])
        for name, part in loss(outputs, batch).items():
            sums[name] = sums.get(name, 0.0) + part.item() / len(loader)
        for task, logits in outputs.items():
            binary = task == "affinity"  # every channel decides for itself between other region (0) and same (1)
            metric = scores.setdefault(
                task, MulticlassJaccardIndex(2 if binary else logits.shape[1], ignore_index=SEMANTIC_VOID).to(device)
            )
            metric.update((logits > 0).long() if binary else logits.argmax(1), batch[ALL_TARGET_KEYS[task]])
    mious = {f"val_miou_{task}": metric.compute().item() for task, metric in scores.items()}
    return {f"val_{name}": value for name, value in sums.items()} | mious | {
        "val_score": sum(mious.values()) / len(mious)
    }


@torch.no_grad()
def predict(model: nn.Module, image: torch.Tensor, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """Log-probabilities of every task for one picture, at the picture's own resolution.

    Args:
        model: maps images to {task: logits}; put into evaluation mode.
        image: (3, H, W) uint8, or float in [0, 1].
        size: (H, W) at which the network looks at the picture; its logits are resized back. Default: as it is.

    Returns:
        {task: (C, H, W) float32 log-softmax}; of affinities the log-sigmoid, each channel being a probability itself.
    """
    model.eval()
    device = next(model.parameters()).device
    image = v2.functional.to_dtype(image, torch.float32, scale=True).as_subclass(torch.Tensor)[None].to(device)
    seen = image if size is None else F.interpolate(image, size, mode="bilinear", antialias=True)
    outputs = {}
    for task, logits in model(seen).items():
        if size is not None:
            logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)
        log_probabilities = F.logsigmoid(logits) if task == "affinity" else logits.log_softmax(1)
        outputs[task] = log_probabilities[0].float().cpu().numpy()
    return outputs


def save_checkpoint(model: FusionModel, path: str | Path, **facts) -> None:
    """Write weights and configuration as one safetensors file, which cannot run code when it is read.

    Args:
        model: its `config` is what rebuilds it.
        path: file to write. It appears whole or not at all; an older file stays until then.
        facts: anything JSON can hold, kept beside the configuration (decoding parameters, scores).
    """
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, save(state, metadata={"config": json.dumps(model.config), "facts": json.dumps(facts)}))


def load_checkpoint(path: str | Path) -> tuple[FusionModel, dict]:
    """Rebuild a model from `save_checkpoint`'s file; returns it in evaluation mode, on the CPU, with the facts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no whole safetensors file (a pickle, or cut short), holds no
            configuration, or its weights do not fit its configuration.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path is {path.name}; there is no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is no whole safetensors file ({error}); pickles are refused, a file cut short must be "
            "fetched or trained again"
        ) from error
    if "config" not in metadata:
        raise ValueError(f"{path.name} has no 'config' in its metadata; write it with save_checkpoint")
    try:
        model = FusionModel(**json.loads(metadata["config"]))
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: its weights do not fit its configuration {metadata['config']}: {error}") from error
    return model.eval(), json.loads(metadata.get("facts", "{}"))


class _Run:
    """What a training run must not lose: history, best weights, and the state of everything that steps."""

    def __init__(self, folder, settings: dict, parts: dict):
        self.folder = None if folder is None else Path(folder)
        self.settings, self.parts = settings, parts
        self.history: list[dict] = []
        self.best: dict = {}

    def resume(self, device: torch.device) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "state.pt"
        if not path.exists():
            return
        advice = f"move {path.name} away to start the run again, or choose another folder"
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            theirs = state["settings"]
        except Exception as error:
            raise ValueError(f"{path.name} in folder {self.folder.name!r} cannot be read ({error}); {advice}") from error
        changed = {k: (theirs.get(k), v) for k, v in self.settings.items() if theirs.get(k) != v}
        if changed:
            raise ValueError(f"folder {self.folder.name!r} holds a run with other settings (theirs, yours): {changed}; {advice}")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except RuntimeError as error:
            raise ValueError(f"folder {self.folder.name!r} holds a run of another model: {error}; {advice}") from error
        self.history, self.best = state["history"], state["best"]

    def finish_epoch(self, entry: dict) -> None:
        better = not self.history or entry["val_score"] > max(e["val_score"] for e in self.history)
        self.history.append(entry)
        model = self.parts["model"]
        if better:
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if self.folder is None:
            return
        if better and isinstance(model, FusionModel):
            save_checkpoint(model, self.folder / "best.safetensors", epoch=entry["epoch"], val_score=entry["val_score"])
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"settings": self.settings, "history": self.history, "best": self.best}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(self.folder / "state.pt", buffer.getvalue())


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file beside `path` and move it there: readers see the old content or the new one, never a part."""
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            pass
        raise OSError(error.errno, f"cannot write {path.name} ({error.strerror}); what was there before is unharmed") from error


def _forget_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the whole process
        pass


def _peak_memory(device: torch.device) -> float:
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    batch = {key: value.as_subclass(torch.Tensor).to(device, non_blocking=True) for key, value in batch.items()}
    return {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}


def _require_finite(losses: dict[str, float], where: str) -> None:
    if not math.isfinite(losses["total"]):
        bad = [name for name, value in losses.items() if name != "total" and not math.isfinite(value)]
        raise FloatingPointError(
            f"the loss of task {' and '.join(bad) or 'total'} is not finite in {where}; "
            "lower the learning rate, or look at that batch's image and targets"
        )
