"""From two losses to one update: the plain sum, or methods that weigh losses or gradients.

The methods come from the package torchjd (torchjd.org names their papers), but for uncertainty
weighting. Each object serves one training run; all but the plain sum leave out alpha and beta.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fusion_lib import checks

WEIGHED = ("semantic", "region")  # the two tasks


class PlainSum:
    """L = alpha * L_seg + beta * L_cls, as `losses.FusionLoss` has summed it."""

    def learned(self, device: torch.device) -> list[Tensor]:
        """Parameters of the method itself, for the optimizer, without weight decay."""
        return []

    def backward(self, parts: dict[str, Tensor], model: nn.Module, scale: Callable) -> None:
        """Fill all gradients from {"total": (), task: ()}; `scale` is the precision's scaler."""
        scale(parts["total"]).backward()

    def after_step(self, model: nn.Module, loss: Callable, batch: dict[str, Tensor]) -> None:
        """After each step of the optimizer, with the batch that it was for."""

    def end_epoch(self) -> dict[str, float]:
        """After each epoch; what it returns goes into the history."""
        return {}


class LossWeighting(PlainSum):
    """Weigh the tasks' losses by a scalarizer of torchjd."""

    def __init__(self, scalarizer):
        self.scalarizer = scalarizer

    def learned(self, device):
        self.scalarizer.to(device)  # what FAMO learns has an optimizer of its own
        return []

    def backward(self, parts, model, scale):
        scale(self.scalarizer(_both(parts))).backward()

    @torch.no_grad()
    def after_step(self, model, loss, batch):
        if hasattr(self.scalarizer, "update"):  # FAMO weighs by what the step has changed
            self.scalarizer.update(_both(loss(model(batch["image"]), batch)))

    def end_epoch(self):
        if hasattr(self.scalarizer, "step"):  # the dynamic weight average compares epochs
            self.scalarizer.step()
        return {}


class Uncertainty(PlainSum):
    """sum_i exp(-s_i) L_i + s_i / 2 with learned s_i = log sigma_i^2, from 0 (Kendall et al. 2018,
    eq. 10, for cross entropies). At the minimum over s_i the weight exp(-s_i) is 1 / (2 L_i)."""

    def learned(self, device):
        self.log_variance = torch.zeros(2, device=device, requires_grad=True)
        return [self.log_variance]

    def backward(self, parts, model, scale):
        weights = torch.exp(-self.log_variance)
        scale((weights * _both(parts) + self.log_variance / 2).sum()).backward()

    def end_epoch(self):
        weights = torch.exp(-self.log_variance.detach()).tolist()
        return {f"weight_{task}": weight for task, weight in zip(WEIGHED, weights)}


class GradientWeighting(PlainSum):
    """Weigh the tasks' gradients in the shared parameters; elsewhere stands the sum's gradient.

    Let row i of J be the gradient of loss i in the shared parameters. The method, a `Weighting` of
    torchjd, maps the Gramian J J^T, (2, 2), to weights w, (2,); the shared gradient becomes w J.
    Its means over an epoch, as two norms and their cosine, go into the history.
    """

    def __init__(self, method: nn.Module):
        self.method = method
        self.gramians: list[Tensor] = []

    def backward(self, parts, model, scale):
        shared = model.shared_parameters()
        rows = (torch.autograd.grad(scale(p), shared, retain_graph=True) for p in _both(parts))
        jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        gramian = jacobian @ jacobian.T / scale(torch.ones((), device=jacobian.device)) ** 2
        weights = torch.ones_like(gramian[0])  # for an overflow, whose step the scaler skips
        if gramian.isfinite().all():
            self.gramians.append(gramian)
            weights = self.method(gramian)
        not_own = set(map(id, shared))
        own = [p for p in model.parameters() if p.requires_grad and id(p) not in not_own]
        scale(parts["total"]).backward(inputs=own)
        gradients = (weights @ jacobian).split([p.numel() for p in shared])
        for parameter, gradient in zip(shared, gradients):
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))

    def end_epoch(self):
        gramians = torch.stack(self.gramians or [torch.full((2, 2), torch.nan)]).double().cpu()
        self.gramians = []
        norms = gramians.diagonal(dim1=1, dim2=2).sqrt()
        cosines = gramians[:, 0, 1] / norms.prod(1).clamp(min=1e-12)
        means = {f"norm_{task}": norm for task, norm in zip(WEIGHED, norms.mean(0).tolist())}
        return means | {"cosine": cosines.mean().item()}


# Names, and the classes of torchjd: scalarizers, and weightings (whose names end so).
LOSSES = {"DWA": "DWA", "FAMO": "FAMO", "random": "Random", "geometric mean": "GeometricMean"}
GRADIENTS = {"observed sum": "Sum", "PCGrad": "PCGrad", "MGDA": "MGDA", "UPGrad": "UPGrad"}
GRADIENTS |= {"Aligned-MTL": "AlignedMTL", "IMTL-G": "IMTLG", "DualProj": "DualProj"}


def choose(name: str) -> PlainSum:
    """The method of that name (else a ValueError), for a run of two tasks; most need torchjd."""
    written_out = {"sum": PlainSum, "uncertainty": Uncertainty}
    if name in written_out:
        return written_out[name]()
    names = [*written_out, *LOSSES, *GRADIENTS]
    checks.expect(name in names, "weighting", name, f"one of: {', '.join(names)}")
    try:
        from torchjd import aggregation, scalarization
    except ModuleNotFoundError as error:
        advice = "install it with: pip install 'torchjd[quadprog-projector]'"
        raise ModuleNotFoundError(f"weighting {name!r} needs torchjd; {advice}") from error
    if name in GRADIENTS:
        return GradientWeighting(getattr(aggregation, f"{GRADIENTS[name]}Weighting")())
    scalarizer = getattr(scalarization, LOSSES[name])
    return LossWeighting(scalarizer(len(WEIGHED)) if name == "FAMO" else scalarizer())


def _both(parts: dict[str, Tensor]) -> Tensor:
    message = f"parts has {sorted(parts)}; all but the plain sum expects {' and '.join(WEIGHED)}"
    checks.require(parts.keys() - {"total"} == {*WEIGHED}, message)
    return torch.stack([parts[task] for task in WEIGHED])
