"""The tasks' losses and their weighted sum, L = alpha * L_seg + beta * L_cls.

The article calls the loss of the semantic task L_seg and the loss of the region task L_cls. Both
are cross entropies per pixel, averaged over the pixels that are not void. So is that of any further
task.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_lib.affinities import affinity_cross_entropy
from fusion_lib.scenes import SEMANTIC_VOID

TARGET_KEYS = {
    "semantic": "semantic",
    "region": "region_target",
}  # where a batch keeps each task's target
ALL_TARGET_KEYS = {
    **TARGET_KEYS,
    "affinity": "affinity_target",
}  # the region task in another form, see `affinities`


def target_key(task: str) -> str:
    """Where a batch keeps the target of a task: as `ALL_TARGET_KEYS` says, of any other task under
    its own name."""
    return ALL_TARGET_KEYS.get(task, task)


def pixel_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, normaliser: Tensor | None = None
) -> Tensor:
    """Mean cross entropy over the pixels that are not void.

    Without weights: -(1/|V|) sum_{i in V} log q_i[t_i]. With weights w:
    -sum_{i in V} w[t_i] log q_i[t_i] / sum_{i in V} w[t_i]. Here q_i is the softmax of the logits
    at pixel i, t_i its target, and V the pixels whose target is not 255. If V is empty the loss is
    0 and its gradient is 0.

    Shape:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64 in 0..C-1, void 255.
        weight: (C,) float, optional.
        normaliser: () float, optional; what to divide the sum by where the pixels are part of a
            larger batch (see `FusionLoss.normalisers`), in place of |V| or the sum of w[t_i].
        returns: () float.

    Raises:
        TypeError: target is not int64 (a float target would silently be read as probabilities).
        ValueError: the shapes do not fit, or (looked for on a CPU only, a GPU would have to wait
            for the answer) a target is neither a class nor void.
    """
    if target.dtype != torch.int64:
        raise TypeError(f"target has dtype {target.dtype}; expected torch.int64 class indices")
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
            "expected (N, C, H, W) and (N, H, W)"
        )
    if target.device.type == "cpu":
        valid, classes = target != SEMANTIC_VOID, logits.shape[1]
        if ((target < 0) | (target >= classes))[valid].any():
            raise ValueError(
                f"target holds {target[valid].min()}..{target[valid].max()}; "
                f"expected 0..{classes - 1} or void {SEMANTIC_VOID}"
            )
    total = F.cross_entropy(
        logits, target, weight=weight, ignore_index=SEMANTIC_VOID, reduction="sum"
    )
    return _divided(total, pixel_normaliser(target, weight) if normaliser is None else normaliser)


def pixel_normaliser(target: Tensor, weight: Tensor | None = None) -> Tensor:
    """|V|, or the sum of w[t_i] over V, (); 0 where V is empty. Arguments as
    `pixel_cross_entropy`."""
    valid = target != SEMANTIC_VOID
    return (valid if weight is None else weight[target.where(valid, 0)] * valid).sum()


def _divided(total: Tensor, count: Tensor) -> Tensor:
    return total / count.where(count > 0, 1)  # 0 / 1 where nothing counts: no loss, no gradient


class FusionLoss(nn.Module):
    """L = alpha * L_seg + beta * L_cls, and so on for further tasks, with each part returned beside
    the total.

    Args:
        alpha: weight of the semantic task, at least 0.
        beta: weight of the region task, at least 0.
        region_weights: (3,) class weights of boundary, rim and core; see `targets.class_weights`.
        further: {task: its weight, at least 0} of tasks beside these two; 1 for one that is not
            named.

    Shape:
        outputs: {"semantic": (N, C, H, W), "region": (N, 3, H, W)} logits. A model with one task
            gives one entry, and only that task enters the sum. In place of "region" stands
            "affinity", (N, K, H, W), if the region task is learned as affinities; beta weighs it
            too. Any further task has (N, classes, H, W).
        batch: {"semantic": (N, H, W), "region_target": (N, H, W), "affinity_target": (N, K, H, W)}
            int64, and the target of a further task under its name, (N, H, W) with void 255.
        normalisers: {task: ()}, optional; what `normalisers` says of the whole batch, if this one
            is a piece of it.
        returns: {"total": (), "semantic": (), "region": ()}, and an entry for each further task.

    Raises:
        ValueError: a weight is negative or not finite, or a task's target is not in the batch.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        region_weights: Tensor | None = None,
        further: dict[str, float] | None = None,
    ):
        super().__init__()
        further = further or {}
        if named_elsewhere := sorted({"total", *ALL_TARGET_KEYS} & further.keys()):
            raise ValueError(
                f"further names {named_elsewhere}; alpha weighs the semantic task and beta the"
                " region task"
            )
        for name, value in {"alpha": alpha, "beta": beta, **further}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; expected a finite weight of at least 0")
        self.task_weights = {"semantic": alpha, "region": beta, **further}
        self.register_buffer("region_weights", region_weights)

    def forward(
        self,
        outputs: dict[str, Tensor],
        batch: dict[str, Tensor],
        normalisers: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        parts = {}
        for task, logits in outputs.items():
            target, whole = (
                self._target(task, batch),
                None if normalisers is None else normalisers[task],
            )
            if task == "affinity":
                parts[task] = affinity_cross_entropy(logits, target, whole)
            else:
                parts[task] = pixel_cross_entropy(logits, target, self._class_weights(task), whole)
        return {"total": self.total(parts), **parts}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """The weighted sum of {task: ()}."""
        task_weights = {**self.task_weights, "affinity": self.task_weights["region"]}
        return sum(task_weights.get(task, 1.0) * part for task, part in parts.items())

    def normalisers(self, tasks: Iterable[str], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the sum over the pixels is divided by, {task: ()}: how many are valid, or the sum of
        their weights.

        The losses of the pieces of a batch, each divided by the whole batch's normalisers, add up
        to the loss of the whole. The mean of the pieces' own means does not, unless all have
        equally many valid pixels.
        """
        return {
            task: (
                (self._target(task, batch) != SEMANTIC_VOID).sum()
                if task == "affinity"
                else pixel_normaliser(self._target(task, batch), self._class_weights(task))
            )
            for task in tasks
        }

    def _class_weights(self, task: str) -> Tensor | None:
        return self.region_weights if task == "region" else None

    def _target(self, task: str, batch: dict[str, Tensor]) -> Tensor:
        if target_key(task) not in batch:
            raise ValueError(
                f"batch has {sorted(batch)}; task {task!r} expects its target as"
                f" {target_key(task)!r}"
            )
        return batch[target_key(task)]
