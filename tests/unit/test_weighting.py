"""From two losses to one update: each method against its equation, on a model whose gradients are
known."""

import math
import sys

import numpy as np
import pytest
import torch
from examples import tiny_loaders, tiny_model, tiny_samples
from torch import nn

from fusion_lib import weighting
from fusion_lib.losses import FusionLoss
from fusion_lib.models import FusionModel
from fusion_lib.training import train
from fusion_lib.weighting import GradientWeighting, LossWeighting, PlainSum, Uncertainty, choose

CPU = torch.device("cpu")
LOSSES = ("DWA", "FAMO", "random", "geometric mean")
GRADIENTS = ("observed sum", "PCGrad", "MGDA", "UPGrad", "Aligned-MTL", "IMTL-G", "DualProj")


class Toy(nn.Module):
    """L_seg = a w + 3 u + 1 and L_cls = b w + 5 v + 2, with w shared and u and v the tasks' own,
    all starting at 0."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = torch.tensor(a), torch.tensor(b)
        self.w = nn.Parameter(torch.zeros(len(a)))
        self.u, self.v = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def shared_parameters(self):
        return [self.w]

    def parts(self, alpha=1.0, beta=1.0):
        semantic, region = self.a @ self.w + 3 * self.u + 1, self.b @ self.w + 5 * self.v + 2
        return {"total": alpha * semantic + beta * region, "semantic": semantic, "region": region}

    def gradients(self) -> list[float]:
        """Of w, u and v in a row."""
        return torch.cat([p.grad.flatten() for p in self.parameters()]).tolist()


def same(loss):
    """The scaler's `scale` without mixed precision."""
    return loss


def stepped(name: str, a, b, alpha: float = 1.0, beta: float = 1.0, scale=same) -> Toy:
    torch.manual_seed(0)
    toy = Toy(a, b)
    choose(name).backward(toy.parts(alpha, beta), toy, scale)
    return toy


# --- the plain sum, and what all have in common ------------------------------------------------


def test_plain_sum_is_backward_of_the_total():
    toy = stepped("sum", [1.0, 2.0], [-3.0, 0.5], alpha=0.25, beta=2.0)
    assert toy.gradients() == [-5.75, 1.5, 0.75, 10.0]
    method = choose("sum")
    assert method.learned(CPU) == [] and method.end_epoch() == {}
    assert method.after_step(toy, None, {}) is None


@pytest.mark.parametrize("name", ["sum", "uncertainty", *LOSSES, *GRADIENTS])
def test_loss_scaling_of_mixed_precision_scales_every_gradient_alike(name):
    """The scaler divides it out again before the step; what goes into the history must not hold
    it."""
    histories, gradients = [], []
    for factor in (1.0, 1024.0):
        torch.manual_seed(0)
        toy, method = Toy([3.0, 1.0], [-1.0, 2.0]), choose(name)
        method.learned(CPU)
        method.backward(toy.parts(), toy, lambda loss: loss * factor)
        gradients.append(np.array(toy.gradients()) / factor)
        histories.append(method.end_epoch())
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
    assert histories[0] == pytest.approx(histories[1])


@pytest.mark.parametrize("name", ["uncertainty", *LOSSES, *GRADIENTS])
def test_every_method_trains(name):
    """One real run each: it ends, finite, better than it began."""
    _, history = fit(name, epochs=4)
    assert all(math.isfinite(value) for entry in history for value in entry.values())
    assert history[-1]["train_total"] < history[0]["train_total"]


def fit(
    name: str,
    epochs: int,
    alpha: float = 1.0,
    beta: float = 1.0,
    sharing: str = "hard",
    loaders=None,
):
    torch.manual_seed(0)
    model = FusionModel({"semantic": 3, "region": 3}, width=4, sharing=sharing)
    method = choose(name)
    loaders = tiny_loaders() if loaders is None else loaders
    history = train(
        model,
        FusionLoss(alpha, beta),
        *loaders,
        epochs=epochs,
        learning_rate=1e-2,
        device=CPU,
        weighting=method,
    )
    return method, history


def test_each_run_gets_a_method_of_its_own():
    for name in ("DWA", "uncertainty", "PCGrad"):
        assert choose(name) is not choose(name)
    assert choose("FAMO").scalarizer is not choose("FAMO").scalarizer


@pytest.mark.parametrize("name", ["uncertainty", "FAMO", "PCGrad"])
def test_a_single_task_cannot_be_weighed(name):
    model = tiny_model(outputs={"semantic": 3})
    with pytest.raises(
        ValueError, match=r"parts has \['semantic', 'total'\]; .* expects semantic and region"
    ):
        train(model, FusionLoss(), *tiny_loaders(), epochs=1, device=CPU, weighting=choose(name))


# --- methods that weigh losses -----------------------------------------------------------------


def test_uncertainty_by_its_equation():
    """sum_i exp(-s_i) L_i + s_i / 2: in s_i the gradient is 1/2 - exp(-s_i) L_i, in all else
    exp(-s_i) times L_i's."""
    toy, method = Toy([1.0, 2.0], [-3.0, 0.5]), Uncertainty()
    (s,) = method.learned(CPU)
    assert s.tolist() == [0.0, 0.0] and s.requires_grad and s.is_leaf
    with torch.no_grad():
        s.copy_(torch.tensor([math.log(2.0), math.log(0.25)]))
    parts = toy.parts(alpha=9.0, beta=9.0)  # which do not count
    total = []
    method.backward(parts, toy, lambda loss: total.append(loss.item()) or loss)
    assert total == pytest.approx([1 / 2 + math.log(2) / 2 + 4 * 2 + math.log(0.25) / 2])
    np.testing.assert_allclose(s.grad, [1 / 2 - 1 / 2, 1 / 2 - 4 * 2])
    assert toy.gradients() == pytest.approx([0.5 - 12, 1 + 2, 1.5, 20.0])
    assert method.end_epoch() == pytest.approx({"weight_semantic": 0.5, "weight_region": 4.0})


def test_uncertainty_settles_at_half_the_inverse_of_the_loss():
    toy, method = Toy([0.0], [0.0]), Uncertainty()  # losses 1 and 2, whatever happens
    optimizer = torch.optim.SGD(method.learned(CPU), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        method.backward(toy.parts(), toy, same)
        optimizer.step()
    assert method.end_epoch() == pytest.approx(
        {"weight_semantic": 1 / 2, "weight_region": 1 / 4}, rel=1e-4
    )


def test_uncertainty_learns_in_a_run():
    _, history = fit("uncertainty", epochs=3)
    weights = [entry["weight_semantic"] for entry in history]
    assert weights[0] != 1 and len(set(weights)) == 3
    assert history[0]["weight_semantic"] != history[0]["weight_region"]


def test_geometric_mean_by_hand():
    """d sqrt(L1 L2) = (L2 dL1 + L1 dL2) / (2 sqrt(L1 L2)), with L = 1 and 2 at the start."""
    root = 2 * math.sqrt(2)
    toy = stepped("geometric mean", [1.0, 2.0], [-3.0, 0.5], alpha=9.0)
    assert toy.gradients() == pytest.approx([(2 - 3) / root, (4 + 0.5) / root, 6 / root, 5 / root])


def test_random_weights_are_positive_sum_to_1_and_change():
    toy, method, seen = Toy([1.0], [1.0]), choose("random"), []
    for _ in range(20):
        toy.zero_grad()
        method.backward(toy.parts(), toy, same)
        seen.append((toy.u.grad.item() / 3, toy.v.grad.item() / 5))
    assert all(one > 0 and other > 0 and one + other == pytest.approx(1) for one, other in seen)
    assert len({round(one, 4) for one, _ in seen}) > 15


class Fixed:
    """Stands in for a model whose losses are given."""

    def __init__(self, semantic: float, region: float):
        values = torch.tensor([semantic, region], requires_grad=True)
        self.values, self.parts = (
            values,
            {"total": values.sum(), "semantic": values[0], "region": values[1]},
        )

    def weights(self, method) -> list[float]:
        method.backward(self.parts, None, same)
        return self.values.grad.tolist()


def after_step(method, parts) -> None:
    """Tell a method of a step, after which `parts()` are the batch's losses."""
    method.after_step(lambda image: None, lambda outputs, batch: parts(), {"image": None})


def test_dynamic_weight_average_by_hand():
    """Two epochs at 1; then 2 softmax(r / 2), with r the last epoch's mean loss over that of the
    epoch before."""
    method = choose("DWA")
    for losses in (
        [(4.0, 1.0), (2.0, 3.0)],
        [(1.0, 2.0), (0.5, 2.0)],
    ):  # means 3 and 2, then 0.75 and 2
        for pair in losses:
            assert Fixed(*pair).weights(method) == [1.0, 1.0]
        assert method.end_epoch() == {}
    high, low = math.exp(1.0 / 2), math.exp(0.25 / 2)
    expected = [2 * low / (low + high), 2 * high / (low + high)]
    assert Fixed(7.0, 7.0).weights(method) == pytest.approx(expected)
    assert Fixed(1.0, 9.0).weights(method) == pytest.approx(expected)  # until the epoch ends


def test_famo_by_hand():
    """Weights c z_i / L_i, c = 1 / sum z / L; after a step that helps the semantic task only, z
    shifts to the region task.

    The first step of Adam moves each logit by its learning rate, 0.025.
    """
    method = choose("FAMO")
    c = 1 / (0.5 / 1 + 0.5 / 4)
    assert Fixed(1.0, 4.0).weights(method) == pytest.approx([0.5 * c, 0.5 * c / 4], rel=1e-5)
    after_step(method, lambda: Fixed(0.5, 4.0).parts)
    z = 1 / (1 + math.exp(-0.05))
    assert Fixed(1.0, 1.0).weights(method) == pytest.approx([1 - z, z], rel=1e-5)


def test_famo_is_told_the_losses_after_every_step(monkeypatch):
    from torchjd.scalarization import FAMO

    told = []

    def update(self, values):
        told.append(
            (values.requires_grad, values.shape, (values - self._prev_losses).abs().max().item())
        )

    monkeypatch.setattr(FAMO, "update", update)
    fit("FAMO", epochs=2)
    assert [one[:2] for one in told] == [(False, (2,))] * 6  # three batches an epoch
    assert all(change > 0 for _, _, change in told)


def test_dynamic_weight_average_is_told_every_end_of_an_epoch(monkeypatch):
    from torchjd.scalarization import DWA

    calls = []
    monkeypatch.setattr(DWA, "forward", lambda self, values: calls.append("batch") or values.sum())
    monkeypatch.setattr(DWA, "step", lambda self: calls.append("epoch"))
    fit("DWA", epochs=2)
    assert calls == (["batch"] * 3 + ["epoch"]) * 2


@pytest.mark.parametrize("name", [*LOSSES, *GRADIENTS])
def test_only_famo_sees_the_batch_again(name):
    """It costs a forward pass, so no other method asks for it."""
    asked = []
    method = choose(name)
    Fixed(1.0, 2.0).weights(method) if name in LOSSES else None
    after_step(method, lambda: asked.append(1) or Fixed(1.0, 2.0).parts)
    assert asked == ([1] if name == "FAMO" else [])


def test_what_famo_learns_goes_to_the_device_of_the_model():
    method = choose("FAMO")
    assert method.learned(torch.device("meta")) == []
    assert {
        tensor.device.type
        for tensor in (*method.scalarizer.parameters(), *method.scalarizer.buffers())
    } == {"meta"}


# --- methods that weigh gradients --------------------------------------------------------------


ORTHOGONAL, CONFLICT = ([2.0, 0.0], [0.0, 1.0]), ([1.0, 0.0], [-1.0, 1.0])


@pytest.mark.parametrize(
    "name, gradients, expected",
    [
        ("observed sum", CONFLICT, [0.0, 1.0]),
        # MGDA: the shortest vector between a and b. a (b - a) . b / |b - a|^2 + ..., here a / 5 + 4
        # b / 5.
        ("MGDA", ORTHOGONAL, [0.4, 0.8]),
        ("MGDA", ([1.0, 0.0], [3.0, 0.0]), [1.0, 0.0]),  # a itself
        ("MGDA", CONFLICT, [0.2, 0.4]),
        # PCGrad: each loses its component against the other, (1/2, 1/2) and (0, 1), and they are
        # summed.
        ("PCGrad", CONFLICT, [0.5, 1.5]),
        ("PCGrad", ORTHOGONAL, [2.0, 1.0]),  # no conflict: the sum
        # UPGrad: the mean of both projections onto the cone of directions that hurt no task, here
        # those of PCGrad.
        ("UPGrad", CONFLICT, [0.25, 0.75]),
        ("UPGrad", ORTHOGONAL, [1.0, 0.5]),
        # DualProj: the mean, (-1, 1/2), projected onto that cone.
        ("DualProj", ([1.0, 0.0], [-3.0, 1.0]), [0.0, 0.5]),
        ("DualProj", ORTHOGONAL, [1.0, 0.5]),
        # Aligned-MTL: the mean after all singular values were lowered to the smallest, 1.
        ("Aligned-MTL", ORTHOGONAL, [0.5, 0.5]),
        # IMTL-G: weights that sum to 1 and give equal components along a / |a| and b / |b|: 2 w = 1
        # - w.
        ("IMTL-G", ORTHOGONAL, [2 / 3, 2 / 3]),
    ],
)
def test_two_gradients_by_hand(name, gradients, expected):
    """The shared gradient is the method's; the tasks' own gradients are those of the weighted
    sum."""
    toy = stepped(name, *gradients, alpha=0.5, beta=0.25)
    np.testing.assert_allclose(
        toy.w.grad, expected, atol=2e-3
    )  # the projections are solved to about 1e-3
    assert toy.u.grad.item() == 1.5 and toy.v.grad.item() == 1.25


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "DualProj", "PCGrad"])
@pytest.mark.parametrize("seed", range(5))
def test_update_hurts_no_task(name, seed):
    """Two gradients in conflict: to first order neither loss rises, though the step along their sum
    raises one."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=3)
    b = rng.normal(size=3) - 2.5 * a
    toy = stepped(name, a.astype(np.float32).tolist(), b.astype(np.float32).tolist())
    step = toy.w.grad.double().numpy()
    cosines = [
        gradient @ step / np.linalg.norm(gradient) / np.linalg.norm(step) for gradient in (a, b)
    ]
    assert min(cosines) > -0.02 and a @ (a + b) < 0


@pytest.mark.parametrize("sharing", ["hard", "attention", "gates"])
def test_observed_sum_is_the_plain_sum(sharing):
    """All parameters of a real network, in the memory layout that `train` gives them."""
    torch.manual_seed(0)
    model = FusionModel({"semantic": 3, "region": 3}, width=4, sharing=sharing).to(
        memory_format=torch.channels_last
    )
    samples, loss = tiny_samples(3), FusionLoss()
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    gradients = []
    for name in ("sum", "observed sum"):
        model.zero_grad()
        choose(name).backward(loss(model(batch["image"]), batch), model, same)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        assert all(p.grad.stride() == p.stride() for p in model.parameters())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)
        assert gradient.any(), name


def test_observed_sum_trains_as_the_plain_sum_does():
    observed, plain = (
        fit(name, epochs=1, loaders=tiny_loaders(train=2))[1][0] for name in ("observed sum", "sum")
    )
    assert {
        name: observed[name] for name in plain if name not in ("seconds", "memory_mib")
    } == pytest.approx(
        {name: plain[name] for name in plain if name not in ("seconds", "memory_mib")}, rel=1e-3
    )
    assert set(observed) - set(plain) == {"norm_semantic", "norm_region", "cosine"}


def test_history_holds_means_over_the_epoch():
    """Norms 5 and 2, cosine 4/5; then norms 1 and 3, cosine -1; the next epoch starts anew."""
    method = choose("observed sum")
    for a, b in (([3.0, 4.0], [0.0, 2.0]), ([1.0, 0.0], [-3.0, 0.0])):
        toy = Toy(a, b)
        method.backward(toy.parts(alpha=0.1), toy, same)
    expected = {"norm_semantic": 3.0, "norm_region": 2.5, "cosine": (0.8 - 1) / 2}
    assert method.end_epoch() == pytest.approx(expected, abs=1e-6)
    toy = Toy([0.0, 7.0], [7.0, 0.0])
    method.backward(toy.parts(), toy, same)
    assert method.end_epoch() == pytest.approx(
        {"norm_semantic": 7.0, "norm_region": 7.0, "cosine": 0.0}, abs=1e-6
    )


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(
    "gradients", [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0])]
)
def test_task_without_a_gradient(name, gradients):
    """A batch whose pixels are all void for one task: nothing breaks, and the cosine counts as
    0."""
    toy, method = Toy(*gradients), choose(name)
    method.backward(toy.parts(), toy, same)
    assert all(p.grad.isfinite().all() for p in toy.parameters())
    assert method.end_epoch()["cosine"] == 0


def test_gradients_that_overflowed_are_left_to_the_scaler():
    """Half precision: the step must be skipped, so the gradient must not be finite, and no method
    may see it."""

    class Refuses(nn.Module):
        def forward(self, gramian):
            raise AssertionError("not to be called")

    method, toy = GradientWeighting(Refuses()), Toy([math.inf, 1.0], [1.0, 1.0])
    method.backward(toy.parts(), toy, same)
    assert not toy.w.grad.isfinite().all()
    method.method = lambda gramian: torch.ones(2)
    toy = Toy([3.0, 4.0], [0.0, 2.0])
    method.backward(toy.parts(), toy, same)
    assert method.end_epoch()["cosine"] == pytest.approx(0.8)  # of the steps that count
    assert all(math.isnan(value) for value in method.end_epoch().values())  # and of none


def test_frozen_parameters_stay_without_a_gradient():
    model = tiny_model()
    model.encoder.requires_grad_(False)
    model.heads["region"].bias.requires_grad_(False)
    samples = tiny_samples(2)
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    choose("UPGrad").backward(FusionLoss()(model(batch["image"]), batch), model, same)
    assert {name for name, p in model.named_parameters() if p.grad is None} == {
        name for name, p in model.named_parameters() if not p.requires_grad
    }


# --- choosing ----------------------------------------------------------------------------------


def test_kinds():
    assert type(choose("sum")) is PlainSum and type(choose("uncertainty")) is Uncertainty
    assert {type(choose(name)) for name in LOSSES} == {LossWeighting}
    assert {type(choose(name)) for name in GRADIENTS} == {GradientWeighting}


@pytest.mark.parametrize("name", ["pcgrad", "Sum", "", None])
def test_unknown_name_gets_the_list(name):
    with pytest.raises(
        ValueError, match="weighting is .*; expected one of: sum, uncertainty, "
    ) as caught:
        choose(name)
    assert repr(name) in str(caught.value)
    assert str(caught.value).split(": ")[1].split(", ") == [
        "sum",
        "uncertainty",
        *LOSSES,
        *GRADIENTS,
    ]


def test_without_torchjd_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"'PCGrad' needs torchjd; .*pip install 'torchjd\[quadprog-projector\]'",
    ):
        choose("PCGrad")
    assert isinstance(choose("uncertainty"), Uncertainty) and isinstance(
        choose("sum"), weighting.PlainSum
    )
