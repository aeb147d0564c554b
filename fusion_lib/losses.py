"""The tasks' losses and their weighted sum, L = alpha * L_seg + beta * L_cls.

The article calls the loss of the semantic task L_seg and the loss of the region task L_cls. Both are
cross entropies per pixel, averaged over the pixels that are not void. So is that of any further task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_lib.affinities import affinity_cross_entropy
from fusion_lib.scenes import SEMANTIC_VOID

TARGET_KEYS = {"semantic": "semantic", "region": "region_target"}  # where a batch keeps each task's target
ALL_TARGET_KEYS = {**TARGET_KEYS, "affinity": "affinity_target"}  # the region task in another form, see `affinities`


def target_key(task: str) -> str:
    """Where a batch keeps the target of a task: as `ALL_TARGET_KEYS` says, of any other task under its own name."""
    return ALL_TARGET_KEYS.get(task, task)


def pixel_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the pixels that are not void.

    Without weights: -(1/|V|) sum_{i in V} log q_i[t_i]. With weights w:
    -sum_{i in V} w[t_i] log q_i[t_i] / sum_{i in V} w[t_i]. Here q_i is the softmax of the logits at
    pixel i, t_i its target, and V the pixels whose target is not 255. If V is empty the loss is 0
    and its gradient is 0.

    Shape:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64 in 0..C-1, void 255.
        weight: (C,) float, optional.
        returns: () float.

    Raises:
        TypeError: target is not int64 (a float target would silently be read as probabilities).
        ValueError: the shapes do not fit, or a target is neither a class nor void.
    """
    if target.dtype != torch.int64:
        raise TypeError(f"target has dtype {target.dtype}; expected torch.int64 class indices")
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
            "expected (N, C, H, W) and (N, H, W)"
        )
    valid = target != SEMANTIC_VOID
    if not valid.any():
        return logits.sum() * 0.0 + 0.0  # keeps the gradient; + 0.0 turns -0.0 into 0.0
    classes = logits.shape[1]
    if ((target < 0) | (target >= classes))[valid].any():
        raise ValueError(
            f"target holds {target[valid].min()}..{target[valid].max()}; "
            f"expected 0..{classes - 1} or void {SEMANTIC_VOID}"
        )
    return F.cross_entropy(logits, target, weight=weight, ignore_index=SEMANTIC_VOID)


class FusionLoss(nn.Module):
    """L = alpha * L_seg + beta * L_cls, and so on for further tasks, with each part returned beside the total.

    Args:
        alpha: weight of the semantic task, at least 0.
        beta: weight of the region task, at least 0.
        region_weights: (3,) class weights of boundary, rim and core; see `targets.class_weights`.
        further: {task: its weight, at least 0} of tasks beside these two; 1 for one that is not named.

    Shape:
        outputs: {"semantic": (N, C, H, W), "region": (N, 3, H, W)} logits. A model with one task
            gives one entry, and only that task enters the sum. In place of "region" stands "affinity", (N, K, H, W),
            if the region task is learned as affinities; beta weighs it too. Any further task has (N, classes, H, W).
        batch: {"semantic": (N, H, W), "region_target": (N, H, W), "affinity_target": (N, K, H, W)} int64, and
            the target of a further task under its name, (N, H, W) with void 255.
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
            raise ValueError(f"further names {named_elsewhere}; alpha weighs the semantic task and beta the region task")
        for name, value in {"alpha": alpha, "beta": beta, **further}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; expected a finite weight of at least 0")
        self.task_weights = {"semantic": alpha, "region": beta, **further}
        self.register_buffer("region_weights", region_weights)

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = {}
        for task, logits in outputs.items():
            if target_key(task) not in batch:
                raise ValueError(f"batch has {sorted(batch)}; task {task!r} expects its target as {target_key(task)!r}")
            target = batch[target_key(task)]
            if task == "affinity":
                parts[task] = affinity_cross_entropy(logits, target)
            else:
                parts[task] = pixel_cross_entropy(logits, target, self.region_weights if task == "region" else None)
        task_weights = {**self.task_weights, "affinity": self.task_weights["region"]}
        total = sum(task_weights.get(task, 1.0) * part for task, part in parts.items())
        return {"total": total, **parts}
