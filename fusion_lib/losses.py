"""The two losses and their weighted sum, L = alpha * L_seg + beta * L_cls.

The article calls the loss of the semantic task L_seg and the loss of the region task L_cls. Both are
cross entropies per pixel, averaged over the pixels that are not void.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_lib.affinities import affinity_cross_entropy
from fusion_lib.scenes import SEMANTIC_VOID

TARGET_KEYS = {"semantic": "semantic", "region": "region_target"}  # where a batch keeps each task's target
ALL_TARGET_KEYS = {**TARGET_KEYS, "affinity": "affinity_target"}  # the region task in another form, see `affinities`


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
    """L = alpha * L_seg + beta * L_cls, with each part returned beside the total.

    Args:
        alpha: weight of the semantic task, at least 0.
        beta: weight of the region task, at least 0.
        region_weights: (3,) class weights of boundary, rim and core; see `targets.class_weights`.

    Shape:
        outputs: {"semantic": (N, C, H, W), "region": (N, 3, H, W)} logits. A model with one task
            gives one entry, and only that task enters the sum. In place of "region" stands "affinity", (N, K, H, W),
            if the region task is learned as affinities; beta weighs it too.
        batch: {"semantic": (N, H, W), "region_target": (N, H, W), "affinity_target": (N, K, H, W)} int64.
        returns: {"total": (), "semantic": (), "region": ()}.

    Raises:
        ValueError: a weight is negative or not finite, a task is unknown, or its target is not in the batch.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, region_weights: Tensor | None = None):
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; expected a finite weight of at least 0")
        self.task_weights = {"semantic": alpha, "region": beta}
        self.register_buffer("region_weights", region_weights)

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for task in outputs:
            if ALL_TARGET_KEYS.get(task) not in batch:
                raise ValueError(f"batch has {sorted(batch)}; task {task!r} expects its target as {ALL_TARGET_KEYS.get(task)!r}")
        class_weights = {"semantic": None, "region": self.region_weights}
        parts = {
            task: affinity_cross_entropy(logits, batch["affinity_target"]) if task == "affinity"
            else pixel_cross_entropy(logits, batch[TARGET_KEYS[task]], class_weights[task])
            for task, logits in outputs.items()
        }
        task_weights = {**self.task_weights, "affinity": self.task_weights["region"]}
        total = sum(task_weights[task] * part for task, part in parts.items())
        return {"total": total, **parts}
