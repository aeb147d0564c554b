"""From two losses to one update: the plain sum, methods that weigh losses, and methods that weigh
gradients.

The methods come from the package torchjd (documented at torchjd.org, which names their papers),
except uncertainty weighting, which is written out. Each object serves one training run. All but the
plain sum see the losses as they are, without alpha and beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fusion_lib.losses import TARGET_KEYS


class PlainSum:
    """L = alpha * L_seg + beta * L_cls, as `losses.FusionLoss` has summed it."""

    def learned(self, device: torch.device) -> list[Tensor]:
        """Parameters of the method itself, for the optimizer, without weight decay."""
        return []

    def backward(
        self, parts: dict[str, Tensor], model: nn.Module, scale: Callable[[Tensor], Tensor]
    ) -> None:
        """Fill the gradients of all parameters from {"total": (), task: ()}; `scale` is the
        mixed-precision scaler's."""
        scale(parts["total"]).backward()

    def after_step(self, parts: Callable[[], dict[str, Tensor]]) -> None:
        """Called after each step of the optimizer; `parts()` computes the same batch's losses
        again."""

    def end_epoch(self) -> dict[str, float]:
        """Called after each epoch; what it returns goes into the history."""
        return {}


class LossWeighting(PlainSum):
    """Weigh the tasks' losses by a scalarizer of torchjd: dynamic weight average, FAMO, random
    weights and others."""

    def __init__(self, scalarizer: nn.Module):
        self.scalarizer = scalarizer

    def learned(self, device):
        self.scalarizer.to(device)  # what FAMO learns has an optimizer of its own
        return []

    def backward(self, parts, model, scale):
        scale(self.scalarizer(_both(parts))).backward()

    @torch.no_grad()
    def after_step(self, parts):
        if hasattr(self.scalarizer, "update"):  # FAMO weighs by what the step has changed
            self.scalarizer.update(_both(parts()))

    def end_epoch(self):
        if hasattr(self.scalarizer, "step"):  # the dynamic weight average compares epochs
            self.scalarizer.step()
        return {}


class Uncertainty(PlainSum):
    """sum_i exp(-s_i) L_i + s_i / 2 with learned s_i = log sigma_i^2 (Kendall et al. 2018, eq. 10,
    for cross entropies).

    The s_i start at 0. At the minimum over s_i the weight exp(-s_i) is 1 / (2 L_i).
    """

    def __init__(self):
        self.log_variance = torch.zeros(2)

    def learned(self, device):
        self.log_variance = self.log_variance.to(device).requires_grad_()
        return [self.log_variance]

    def backward(self, parts, model, scale):
        scale(
            (torch.exp(-self.log_variance) * _both(parts) + self.log_variance / 2).sum()
        ).backward()

    def end_epoch(self):
        semantic, region = torch.exp(-self.log_variance.detach()).tolist()
        return {"weight_semantic": semantic, "weight_region": region}


class GradientWeighting(PlainSum):
    """Weigh the tasks' gradients in the shared part of the model by a method of torchjd; elsewhere
    the sum's gradient.

    Let row i of J be the gradient of loss i in the shared parameters. The method maps the Gramian J
    J^T, which holds the squared norms and the inner product of the two gradients, to weights w; the
    shared gradient becomes w J. The means over an epoch of both norms and of the cosine go into the
    history.

    Args:
        method: a `Weighting` of torchjd, (2, 2) -> (2,).
    """

    def __init__(self, method: nn.Module):
        self.method = method
        self.gramians: list[Tensor] = []

    def backward(self, parts, model, scale):
        shared = model.shared_parameters()
        rows = [
            torch.autograd.grad(scale(loss), shared, retain_graph=True) for loss in _both(parts)
        ]
        jacobian = torch.stack(
            [torch.cat([gradient.flatten() for gradient in row]) for row in rows]
        )
        gramian = jacobian @ jacobian.T / scale(torch.ones((), device=jacobian.device)) ** 2
        if gramian.isfinite().all():
            self.gramians.append(gramian)
            weights = self.method(gramian)
        else:  # half precision overflowed: the scaler will see it too, and skip this step
            weights = torch.ones_like(gramian[0])
        not_own = set(map(id, shared))
        own = [p for p in model.parameters() if p.requires_grad and id(p) not in not_own]
        scale(parts["total"]).backward(inputs=own)
        for parameter, gradient in zip(
            shared, (weights @ jacobian).split([p.numel() for p in shared])
        ):
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))

    def end_epoch(self):
        gramians = torch.stack(self.gramians or [torch.full((2, 2), math.nan)]).double().cpu()
        self.gramians = []
        norms = gramians.diagonal(dim1=1, dim2=2).sqrt()
        cosines = gramians[:, 0, 1] / norms.prod(1).clamp(min=1e-12)
        (semantic, region), cosine = norms.mean(0).tolist(), cosines.mean().item()
        return {"norm_semantic": semantic, "norm_region": region, "cosine": cosine}


def choose(name: str) -> PlainSum:
    """The method of that name, ready for a run of two tasks.

    Raises:
        ValueError: there is no such method.
        ModuleNotFoundError: torchjd is not installed.
    """
    if name == "sum":
        return PlainSum()
    if name == "uncertainty":
        return Uncertainty()
    try:
        from torchjd import aggregation, scalarization
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"weighting {name!r} needs torchjd; install it with: pip install"
            " 'torchjd[quadprog-projector]'"
        ) from error
    losses = {
        "DWA": lambda: scalarization.DWA(),
        "FAMO": lambda: scalarization.FAMO(2),
        "random": lambda: scalarization.Random(),
        "geometric mean": lambda: scalarization.GeometricMean(),
    }
    gradients = {
        "observed sum": aggregation.SumWeighting,
        "PCGrad": aggregation.PCGradWeighting,
        "MGDA": aggregation.MGDAWeighting,
        "UPGrad": aggregation.UPGradWeighting,
        "Aligned-MTL": aggregation.AlignedMTLWeighting,
        "IMTL-G": aggregation.IMTLGWeighting,
        "DualProj": aggregation.DualProjWeighting,
    }
    if name in losses:
        return LossWeighting(losses[name]())
    if name in gradients:
        return GradientWeighting(gradients[name]())
    raise ValueError(
        f"weighting is {name!r}; expected one of: sum, uncertainty,"
        f" {', '.join([*losses, *gradients])}"
    )


def _both(parts: dict[str, Tensor]) -> Tensor:
    if parts.keys() - {"total"} != TARGET_KEYS.keys():
        raise ValueError(
            f"parts has {sorted(parts)}; a weighting other than the plain sum expects"
            f" {' and '.join(TARGET_KEYS)}"
        )
    return torch.stack([parts[task] for task in TARGET_KEYS])
