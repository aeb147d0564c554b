"""The training loop, plain PyTorch, meant to be read.

Every epoch starts from a seed of its own. With the random states kept by `states.Run`, a run that
was killed at any moment goes on exactly as if nothing had happened.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, DistributedSampler

from fusion_lib import checks
from fusion_lib.engine import devices, guards, processes
from fusion_lib.engine.fingerprints import fingerprint
from fusion_lib.engine.states import Run
from fusion_lib.losses import TARGET_KEYS, FusionLoss
from fusion_lib.models import parameter_groups
from fusion_lib.scenes import SEMANTIC_VOID
from fusion_lib.weighting import PlainSum


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class Options:
    """What `train` takes besides its main arguments."""

    weight_decay: float = 1e-2
    gradient_clip: float = 1.0  # largest norm of the gradient of all parameters together
    encoder_factor: float = 1.0  # the encoder's share of the rate, see `models.parameter_groups`
    device: torch.device | None = None  # default `devices.choose_device()`; CUDA computes in 16 bit
    save_every: int = 200  # batches between two states within an epoch
    compile: bool = False  # put the model behind `torch.compile`; where that fails, say why
    stop_after: int | None = None  # end this call after so many epochs, as an interruption would


@guards.explains_a_lost_gpu()
def train(
    model: nn.Module,
    loss: FusionLoss,
    train_loader: DataLoader,
    val_loader: DataLoader,
    *,
    epochs: int,
    learning_rate: float = 3e-3,
    seed: int = 0,
    folder: str | Path | None = None,
    weighting: PlainSum | None = None,
    **options: Any,
) -> list[dict]:
    """Train by gradient descent on the summed loss; leaves the best weights in `model`.

    AdamW with a one-cycle learning rate (Smith & Topin 2018), gradients clipped to a norm. The best
    epoch is the one with the highest mean over the tasks of the mIoU of their pixel classes on
    `val_loader`. Whatever ends the call, the model is left in evaluation mode with the weights of
    the best epoch (before the first is done, those of the last state, see `states.Run`), and an
    exception has the history so far as its attribute `history`.

    Where several processes have joined (`processes.start`), each calls this with its share of the
    pictures, and all take the same steps. Batches too large for a GPU: see `guards.Pieces`.

    Args: model and loss, of images {task: logits}, of these and a batch {"total": ..., task: ...};
        train_loader and val_loader yield {"image": float (N, 3, H, W), "semantic": ...,
        "region_target": ...}, and with several processes the train_loader has a
        `DistributedSampler`, and no picture is in two val_loaders; epochs and learning_rate, length
        of the whole run and the highest rate of its one cycle; seed decides shuffling and
        augmentation, while the initial weights are the caller's; folder, where to keep the state
        and `best.safetensors`, see `states.Run`: a run found there is resumed, if it has the same
        settings and the same data; weighting, how the tasks' losses become one update, default the
        plain sum, and with another one no folder; options, the fields of `Options`.
    Returns: one dict an epoch: "epoch", "learning_rate", "seconds", "memory_mib" (highest in use so
        far), "train_total", "train_<task>", what `validate` returns, what the weighting remembers.
    Raises: FloatingPointError, a loss or a gradient is not finite; names task, epoch, batch and
        picture, and keeps a training batch in `folder`; no step is taken on it. KeyboardInterrupt,
        after the step that the interrupt came in; the state is written. ValueError, OSError,
        RuntimeError, see `states.Run.kept`; or nothing is to be done, `folder` and `weighting` are
        both given, several processes share no sampler, or the GPU is gone.
    """
    chosen = Options(**{name: _plain(value) for name, value in options.items()})
    epochs, learning_rate, seed = map(_plain, (epochs, learning_rate, seed))
    _check(weighting, folder, train_loader, val_loader, epochs, chosen.stop_after)
    weighting = weighting or PlainSum()
    device, steps = chosen.device or devices.choose_device(), epochs * len(train_loader)
    model, loss = model.to(device).to(memory_format=torch.channels_last), loss.to(device)
    network, (mixed, scaler) = processes.joined(model), devices.mixed_precision(device)
    forward = devices.compiled_at_first_call(network) if chosen.compile else network
    settings = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed, "steps": steps}
    optimizer, schedule = _optimizer(model, weighting, learning_rate, steps, chosen)
    settings |= _settings(chosen, loss, train_loader, val_loader) if folder is not None else {}
    run = Run(folder, settings, model=model, optimizer=optimizer, schedule=schedule, scaler=scaler)

    def descend(piece: dict[str, Tensor], whole: Callable) -> dict[str, Tensor]:
        with mixed:
            outputs = forward(piece["image"])
            parts = loss(outputs, piece, *whole(outputs))
        weighting.backward(parts, model, scaler.scale)
        return parts

    in_pieces = guards.Pieces(descend, optimizer.zero_grad, loss, type(weighting) is PlainSum)
    guards.forget_peak_memory(device)
    with run.kept(), guards.Interrupts() as interrupts:
        for epoch in run.epochs(chosen.stop_after):
            seed_everything(epoch_seed(seed, epoch))
            model.train()
            for number, batch in run.batches(train_loader, device):
                optimizer.zero_grad()
                parts = in_pieces(batch)  # forward, loss and backward, see descend
                scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(model.parameters(), chosen.gradient_clip)
                seen = parts if scaler.get_scale() > 1 else {**parts, "gradient": norm}
                guards.require_finite(seen, f"epoch {epoch}, batch {number}", [batch], folder)
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
                weighting.after_step(model, loss, batch)
                run.losses.append(parts)
                if interrupts.asked or (number + 1) % chosen.save_every == 0:
                    run.save()
                    interrupts.end_if_asked(f"after batch {number} of epoch {epoch}")
            entry = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0]}
            entry |= _means(run.losses, device) | weighting.end_epoch()
            entry |= validate(model, loss, val_loader, device)
            losses = {name: entry[f"val_{name}"] for name in run.losses[0]}
            guards.require_finite(losses, f"the validation after epoch {epoch}", val_loader)
            run.finish_epoch(entry | {"memory_mib": guards.peak_memory(device)})
            interrupts.end_if_asked(f"after epoch {epoch}")
    return run.history


def epoch_seed(seed: int, epoch: int) -> int:
    """What decides shuffling and augmentation of an epoch, another one in each process."""
    return 1_000_003 * (seed + 1) + epoch + 10_007 * processes.rank_and_count()[0]


def _check(weighting, folder, train_loader, val_loader, epochs: int, stop_after: int | None):
    pictures = length_hint(val_loader, 1)  # a loader that cannot tell is taken as it is
    checks.require(pictures, "val_loader has 0 batches; expected at least one")
    told = "folder and weighting are both given; a run with a weighting cannot be resumed"
    checks.require(folder is None or weighting is None, f"{told}, leave one out")
    count, batches = processes.rank_and_count()[1], len(train_loader)
    told = f"epochs is {epochs}, stop_after {stop_after}, and train_loader has {batches} batches"
    least = min(epochs, batches, epochs if stop_after is None else stop_after)
    checks.require(least >= 1, f"{told}; expected at least one of each")
    if count > 1:
        shared = isinstance(getattr(train_loader, "sampler", None), DistributedSampler)
        told = f"there are {count} processes, and train_loader has no DistributedSampler"
        checks.require(shared, f"{told}: each would see all pictures; use recipes.loaders")
        checks.expect(weighting is None, "weighting", weighting, "none with several processes")


def _plain(value: Any) -> Any:
    """A number of NumPy or torch as one of Python, which every state can hold and give back."""
    return value.item() if isinstance(value, (np.generic, Tensor)) else value


def _optimizer(model, weighting: PlainSum, learning_rate: float, steps: int, options: Options):
    device = next(model.parameters()).device
    groups = parameter_groups(model, learning_rate, options.encoder_factor)
    if learned := weighting.learned(device):
        groups.append({"params": learned, "lr": learning_rate, "weight_decay": 0.0})
    fused, rates = device.type != "mps", [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=fused)
    return optimizer, OneCycleLR(optimizer, max_lr=rates, total_steps=steps)


def _settings(options: Options, loss: FusionLoss, train_loader, val_loader) -> dict[str, Any]:
    """What decides a run's result, besides its main arguments and the initial weights."""
    size = getattr(train_loader, "batch_size", None)
    return {
        "train_batch_size": size and size * processes.rank_and_count()[1],
        **{n: getattr(options, n) for n in ("weight_decay", "gradient_clip", "encoder_factor")},
        "task_weights": {str(t): _plain(weight) for t, weight in loss.task_weights.items()},
        "class_weights": {name: buffer.tolist() for name, buffer in loss.named_buffers()},
        **fingerprint("train", train_loader, seed_everything),
        **fingerprint("val", val_loader, seed_everything),
    }


@torch.no_grad()
def validate(model: nn.Module, loss: FusionLoss, loader: DataLoader, device: torch.device) -> dict:
    """Over a loader's pictures (of all processes): mean losses, "val_total" and "val_<task>"; mIoU
    of each task's pixel classes, macro over those present, "val_miou_<task>"; and "val_score", its
    mean over the tasks with labels. ValueError: no task has any."""
    from torchmetrics.classification import MulticlassJaccardIndex

    processes.share_buffers(model)
    model.eval()
    sums: dict[str, Tensor] = {}  # of each task: summed loss, and what it is to be divided by
    scores: dict[str, MulticlassJaccardIndex] = {}
    for batch in loader:
        batch = devices.to_device(batch, device)
        outputs = model(batch["image"])
        parts, normalisers = loss(outputs, batch), loss.normalisers(outputs, batch)
        for task, logits in outputs.items():
            both = torch.stack([parts[task] * normalisers[task], normalisers[task]])
            sums[task] = sums.get(task, 0.0) + both.to(_exact(device))
            if task == "affinity":  # each channel decides between other region (0) and same (1)
                logits = torch.stack([-logits, logits], 1)
            metric = MulticlassJaccardIndex(logits.shape[1], ignore_index=SEMANTIC_VOID).to(device)
            scores.setdefault(task, metric).update(logits, batch[TARGET_KEYS.get(task, task)])
    totals = {task: processes.add_up(both) for task, both in sums.items()}
    means = {task: total / number.clamp(min=1e-12) for task, (total, number) in totals.items()}
    losses = {"total": loss.total(means), **means}
    mious = {f"val_miou_{task}": metric.compute().item() for task, metric in scores.items()}
    known = [miou for miou in mious.values() if miou == miou]  # NaN: no pixel has a label
    told = f"val_loader has no labelled pixel for any of the tasks {list(scores)}"
    checks.require(known, f"{told}; expected some for one of them at least")
    found = {f"val_{name}": value.item() for name, value in losses.items()}
    return {**found, **mious, "val_score": sum(known) / len(known)}


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _means(losses: list[dict], device: torch.device) -> dict[str, float]:
    """{"train_<part>": mean over an epoch's batches, of all processes}."""
    count = processes.rank_and_count()[1]
    rows = [torch.stack([*parts.values()]).to(device, _exact(device)) for parts in losses]
    means = processes.add_up(sum(rows[1:], rows[0])) / (len(losses) * count)
    return {f"train_{name}": mean for name, mean in zip(losses[0], means.tolist())}
