"""The training loop. It is plain PyTorch and meant to be read.

Every epoch starts from a seed of its own. With the random states kept by `states.Run`, a run
that was killed at any moment goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

from fusion_lib.engine import guards, processes
from fusion_lib.engine.devices import (
    choose_device,
    compiled,
    forget_peak_memory,
    half_precision,
    peak_memory,
)
from fusion_lib.engine.states import Run
from fusion_lib.losses import FusionLoss, target_key
from fusion_lib.models import parameter_groups
from fusion_lib.scenes import SEMANTIC_VOID
from fusion_lib.weighting import PlainSum


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@guards.explains_a_lost_gpu
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
    encoder_factor: float = 1.0,
    seed: int = 0,
    device: torch.device | None = None,
    weighting: PlainSum | None = None,
    folder: str | Path | None = None,
    save_every: int = 200,
    compile: bool = False,
    stop_after: int | None = None,
) -> list[dict]:
    """Train by gradient descent on the summed loss; leaves the best weights in `model`.

    AdamW with a one-cycle learning rate (Smith & Topin 2018), gradients clipped to a norm. The best
    epoch is the one with the highest mean over the tasks of the mIoU of their pixel classes on
    `val_loader`.

    Where several processes have joined (`processes.start`), each calls this with its share of the
    pictures, and all take the same steps. If a GPU's memory does not suffice for a batch, the batch
    is computed in two pieces, or four, and so on, whose gradients add up to that of the whole; only
    batch norm sees the pieces.

    Args:
        model: maps images to {task: logits}.
        loss: maps outputs and batch to {"total": ..., task: ...}.
        train_loader, val_loader: yield {"image": float (N, 3, H, W), "semantic": ...,
            "region_target": ...}. With several processes the train_loader has a
            `DistributedSampler`, and no picture is in two val_loaders.
        epochs: length of the whole run; the learning rate's cycle ends there.
        learning_rate: the highest of the cycle.
        gradient_clip: largest allowed norm of the gradient of all parameters together.
        encoder_factor: share of the learning rate that the encoder gets, see
            `models.parameter_groups`.
        seed: decides shuffling and augmentation; the initial weights are the caller's.
        device: default `choose_device()`. On CUDA, mixed precision is used (bfloat16 where the
            hardware has it).
        weighting: how the tasks' losses become one update, see `weighting`; default the plain sum
            of `loss`. With another one the run cannot be resumed, so `folder` must be None.
        folder: where to keep the state, and `best.safetensors`; see `states.Run`. A run found
            there is resumed.
        save_every: batches between two states within an epoch; one is written after every epoch,
            too.
        compile: put the model behind `torch.compile` at the first batch; where that fails, go on
            without, and say why.
        stop_after: end this call after so many epochs, as an interruption would.

    Returns:
        One dict an epoch: "epoch", "learning_rate", "seconds", "memory_mib" (highest in use so
            far), "train_total",
        "train_<task>", "val_total", "val_<task>", "val_miou_<task>", "val_score", and what the
        weighting remembers.

    Raises:
        FloatingPointError: a loss is not finite; names the task, the epoch and the batch, and keeps
            the batch in `folder`.
        KeyboardInterrupt: after the step that the interrupt came in; the state is written, and
            `model` has its weights.
        ValueError: `folder` holds a run with other settings, or a state that cannot be read; or
            nothing is to be done; or `folder` and `weighting` are both given; or several processes
            share no sampler.
        RuntimeError: the GPU no longer answers.
    """
    rank, count = processes.rank_and_count()
    weighting = _checked(weighting, folder, train_loader, epochs, stop_after, count)
    device = device or choose_device()
    model = model.to(
        device, memory_format=torch.channels_last
    )  # on a CPU too, convolutions run faster so
    forward = nn.parallel.DistributedDataParallel(model) if count > 1 else model
    loss = loss.to(device)
    steps = epochs * len(train_loader)
    groups = parameter_groups(model, learning_rate, encoder_factor)
    groups += [{"params": weighting.learned(device), "lr": learning_rate, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=device.type != "mps")
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=steps)
    precision = half_precision(device)
    mixed = torch.autocast(device.type, precision, enabled=device.type == "cuda")
    scaler = torch.amp.GradScaler(
        device.type, enabled=device.type == "cuda" and precision == torch.float16
    )
    settings = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "gradient_clip": gradient_clip,
        "seed": seed,
        "steps": steps,
        "task_weights": loss.task_weights,
    }
    if encoder_factor != 1:  # so that runs of before there was a factor go on
        settings["encoder_factor"] = encoder_factor
    run = Run(
        folder,
        settings,
        {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler},
    )
    run.resume()
    last = epochs if stop_after is None else min(epochs, len(run.history) + stop_after)
    forget_peak_memory(device)
    pieces, look_every = (
        1,
        1 if device.type == "cpu" else 20,
    )  # to look at a GPU's losses is to wait for them
    bar = tqdm(
        total=last, initial=len(run.history), desc="epochs", **({"disable": True} if rank else {})
    )
    with guards.Interrupts() as interrupts:
        while len(run.history) < last:
            epoch, began = len(run.history), time.perf_counter() - run.seconds
            seed_everything(1_000_003 * (seed + 1) + epoch + 10_007 * rank)
            if count > 1:
                train_loader.sampler.set_epoch(epoch)
            model.train()
            batches, unseen = iter(train_loader), []
            # batches of before an interruption: drawn once more, so that chance goes the same way
            for _ in run.losses:
                next(batches)
            run.restore_random()
            for number, batch in enumerate(batches, len(run.losses)):
                batch = _to_device(batch, device)
                if compile:
                    with mixed:
                        forward, problem = compiled(forward, batch["image"])
                    compile = False
                    print(f"not compiled: {problem}" if problem else "compiled")
                optimizer.zero_grad(set_to_none=True)
                parts, pieces = _descend(
                    forward, model, loss, batch, weighting, scaler.scale, mixed, pieces
                )
                run.losses.append(parts)
                unseen.append(batch)
                pause = interrupts.asked or (number + 1) % save_every == 0
                if pause or len(unseen) == look_every or number + 1 == len(train_loader):
                    guards.require_finite(run, unseen, f"epoch {epoch}")
                    unseen = []
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
                weighting.after_step(lambda: loss(model(batch["image"]), batch))  # only FAMO looks
                if pause:
                    run.seconds = time.perf_counter() - began
                    run.save()
                    interrupts.end_if_asked(f"after batch {number} of epoch {epoch}")
            processes.share_buffers(model)
            entry = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0]} | _means(
                run.losses, device
            )
            entry |= weighting.end_epoch() | validate(model, loss, val_loader, device)
            validated = {name: entry[f"val_{name}"] for name in run.losses[0]}
            guards.name_not_finite(validated, f"the validation after epoch {epoch}")
            entry |= {"seconds": time.perf_counter() - began, "memory_mib": peak_memory(device)}
            run.finish_epoch(entry)
            bar.update()
            interrupts.end_if_asked(f"after epoch {epoch}")
    bar.close()
    model.load_state_dict(run.best)
    return run.history


def _checked(
    weighting, folder, train_loader, epochs: int, stop_after: int | None, count: int
) -> PlainSum:
    if folder is not None and weighting is not None:
        raise ValueError(
            "folder and weighting are both given; a run with a weighting cannot be resumed, leave"
            " one out"
        )
    if epochs < 1 or (stop_after is not None and stop_after < 1) or not len(train_loader):
        raise ValueError(
            f"epochs is {epochs}, stop_after {stop_after}, and train_loader has {len(train_loader)}"
            " batches; expected at least one of each"
        )
    if count > 1 and not isinstance(getattr(train_loader, "sampler", None), DistributedSampler):
        raise ValueError(
            f"there are {count} processes, and train_loader has no DistributedSampler; each would"
            " train on every picture. Build it with recipes.loaders"
        )
    if count > 1 and weighting is not None:
        raise ValueError(
            f"weighting is {type(weighting).__name__}; several processes expect the plain sum,"
            " leave it out"
        )
    return weighting or PlainSum()


def _descend(forward, model, loss, batch, weighting, scale, mixed, pieces: int) -> tuple[dict, int]:
    """Fill the gradients with those of a batch's loss, in as many pieces as it takes; parts of the
    loss, and pieces."""
    size = len(batch["image"])
    while True:
        try:
            return _in_pieces(forward, model, loss, batch, weighting, scale, mixed, pieces), pieces
        except torch.cuda.OutOfMemoryError as error:
            if (
                2 * pieces > size
                or type(weighting) is not PlainSum
                or processes.rank_and_count()[1] > 1
            ):
                raise type(error)(
                    f"a batch of {size} pictures, {math.ceil(size / pieces)} at a time, does not"
                    f" fit the GPU's memory ({error}); use smaller pictures, or a smaller batch"
                ) from error
        pieces *= 2
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        print(
            f"out of memory: from now on {size} pictures in {pieces} pieces; their gradients add up"
            " to the batch's"
        )


def _in_pieces(
    forward, model, loss, batch, weighting, scale, mixed, pieces: int
) -> dict[str, torch.Tensor]:
    sums, whole, count = {}, None, processes.rank_and_count()[1]
    size = math.ceil(len(batch["image"]) / pieces)
    for start in range(0, len(batch["image"]), size):
        piece = {name: values[start : start + size] for name, values in batch.items()}
        with mixed:
            outputs = forward(piece["image"])
            if whole is None and (
                pieces > 1 or count > 1
            ):  # the mean over processes is taken later: hence the division
                whole = {
                    t: processes.add_up(n.float()) / count
                    for t, n in loss.normalisers(outputs, batch).items()
                }
            parts = loss(outputs, piece) if whole is None else loss(outputs, piece, whole)
        weighting.backward(parts, model, scale)
        sums = {name: sums.get(name, 0.0) + part.detach() for name, part in parts.items()}
    return sums


@torch.no_grad()
def validate(
    model: nn.Module, loss: FusionLoss, loader: DataLoader, device: torch.device
) -> dict[str, float]:
    """Mean loss and mIoU of each task's pixel classes (macro over the classes present) over a
    loader."""
    from torchmetrics.classification import MulticlassJaccardIndex

    model.eval()
    sums: dict[str, torch.Tensor] = {}  # of each task: summed loss, and what it is to be divided by
    scores: dict[str, MulticlassJaccardIndex] = {}
    for batch in loader:
        batch = _to_device(batch, device)
        outputs = model(batch["image"])
        parts, normalisers = loss(outputs, batch), loss.normalisers(outputs, batch)
        for task, logits in outputs.items():
            here = torch.stack([parts[task] * normalisers[task], normalisers[task]]).to(
                _exact(device)
            )
            sums[task] = sums.get(task, 0.0) + here
            binary = (
                task == "affinity"
            )  # every channel decides for itself between other region (0) and same (1)
            metric = scores.setdefault(
                task,
                MulticlassJaccardIndex(
                    2 if binary else logits.shape[1], ignore_index=SEMANTIC_VOID
                ).to(device),
            )
            metric.update(
                (logits > 0).long() if binary else logits.argmax(1), batch[target_key(task)]
            )
    sums = {task: processes.add_up(both) for task, both in sums.items()}
    means = {
        task: total / normaliser.clamp(min=1e-12) for task, (total, normaliser) in sums.items()
    }
    means = {name: value.item() for name, value in ({"total": loss.total(means)} | means).items()}
    mious = {
        f"val_miou_{task}": metric.compute().item() for task, metric in scores.items()
    }  # of all processes' pictures
    return (
        {f"val_{name}": value for name, value in means.items()}
        | mious
        | {"val_score": sum(mious.values()) / len(mious)}
    )


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    batch = {
        key: value.as_subclass(torch.Tensor).to(device, non_blocking=True)
        for key, value in batch.items()
    }
    return {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}


def _means(losses: list[dict], device: torch.device) -> dict[str, float]:
    """{"train_<part>": mean over an epoch's batches, of all processes}."""
    sums = torch.stack(
        [sum(batch[name].to(device, _exact(device)) for batch in losses) for name in losses[0]]
    )
    means = processes.add_up(sums) / (len(losses) * processes.rank_and_count()[1])
    return {f"train_{name}": mean for name, mean in zip(losses[0], means.tolist())}
