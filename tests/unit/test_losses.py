"""Both loss equations and their sum: by hand in NumPy, against torch's own, and on bad input."""

import math

import numpy as np
import pytest
import torch
from examples import tiny_model, tiny_samples
from torch import nn

from fusion_lib.losses import FusionLoss, pixel_cross_entropy

VOID = 255


def random_case(seed: int, classes: int = 4, void: float = 0.3):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 7)), int(rng.integers(1, 7)))
    logits = 3 * rng.standard_normal((shape[0], classes, *shape[1:]))
    target = rng.integers(0, classes, shape)
    target[rng.random(shape) < void] = VOID
    target[0, 0, 0] = 1  # at least one pixel counts
    return logits, target


def by_hand(logits, target, weight=None) -> float:
    """-sum w[t] log q[t] / sum w[t], one pixel after the other."""
    above, below = 0.0, 0.0
    for n, y, x in np.ndindex(target.shape):
        label = target[n, y, x]
        if label == VOID:
            continue
        q = np.exp(logits[n, :, y, x]) / np.exp(logits[n, :, y, x]).sum()
        w = 1.0 if weight is None else weight[label]
        above -= w * np.log(q[label])
        below += w
    return above / below


# --- one task ----------------------------------------------------------------------------------


def test_two_pixels_by_hand():
    """Probabilities (3/4, 1/4) and (1/2, 1/2), targets 0 and 1: the mean of log 4/3 and log 2; the
    third is void."""
    logits = torch.tensor([[[[math.log(3), 0.0, 9.0]], [[0.0, 0.0, 1.0]]]])
    target = torch.tensor([[[0, 1, VOID]]])
    assert pixel_cross_entropy(logits, target).item() == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2, abs=1e-6
    )
    weight = torch.tensor([3.0, 1.0])
    expected = (3 * math.log(4 / 3) + math.log(2)) / 4
    assert pixel_cross_entropy(logits, target, weight).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_equals_numpy_by_hand(seed):
    logits, target = random_case(seed)
    weight = np.random.default_rng(seed).random(4) + 0.1
    given = torch.tensor(logits), torch.tensor(target)
    assert pixel_cross_entropy(*given).item() == pytest.approx(by_hand(logits, target), abs=1e-6)
    weighted = pixel_cross_entropy(*given, torch.tensor(weight)).item()
    assert weighted == pytest.approx(by_hand(logits, target, weight), abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_equals_torch_on_the_pixels_that_count(seed):
    logits, target = (torch.tensor(array) for array in random_case(seed))
    weight = torch.rand(4, dtype=torch.float64) + 0.1
    counts = target != VOID
    chosen = logits.permute(0, 2, 3, 1)[counts]
    for w in (None, weight):
        expected = nn.CrossEntropyLoss(weight=w)(
            chosen, target[counts]
        )  # the void pixels are taken out first
        torch.testing.assert_close(pixel_cross_entropy(logits, target, w), expected)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_q_minus_p_over_the_number_of_pixels(seed):
    logits, target = (torch.tensor(array) for array in random_case(seed))
    logits.requires_grad_()
    pixel_cross_entropy(logits, target).backward()
    counts = target != VOID
    p = torch.zeros_like(logits).scatter_(1, target.where(counts, 0)[:, None], 1.0)
    expected = (logits.detach().softmax(1) - p) * counts[:, None] / counts.sum()
    torch.testing.assert_close(logits.grad, expected)


def test_void_pixels_neither_count_nor_learn():
    logits, target = (torch.tensor(array) for array in random_case(3, void=0.5))
    loss = pixel_cross_entropy(logits, target)
    changed = torch.where(
        (target == VOID)[:, None], logits + 7 * torch.randn_like(logits), logits
    ).requires_grad_()
    again = pixel_cross_entropy(changed, target)
    torch.testing.assert_close(again, loss)
    again.backward()
    assert (changed.grad.abs().sum(1)[target == VOID] == 0).all()
    assert (changed.grad.abs().sum(1)[target != VOID] > 0).all()


def test_the_mean_is_over_all_pixels_of_the_batch_not_over_pictures():
    """A picture with one labelled pixel weighs as much as one pixel."""
    logits, target = (torch.tensor(array) for array in random_case(8, void=0.0))
    logits, target = logits.repeat(2, 1, 1, 1)[:2], target.repeat(2, 1, 1)[:2]
    target[1] = VOID
    target[1, 0, 0] = 2
    assert pixel_cross_entropy(logits, target).item() == pytest.approx(
        by_hand(logits.numpy(), target.numpy()), abs=1e-6
    )


@pytest.mark.parametrize("shift", [0.0, 50.0, -800.0])
def test_a_constant_added_to_all_logits_changes_nothing(shift):
    logits, target = (torch.tensor(array) for array in random_case(5))
    torch.testing.assert_close(
        pixel_cross_entropy(logits + shift, target), pixel_cross_entropy(logits, target)
    )


def test_large_logits_stay_finite():
    logits = torch.tensor([[[[1e4]], [[-1e4]]]])
    assert pixel_cross_entropy(logits, torch.tensor([[[1]]])).item() == pytest.approx(2e4)
    assert pixel_cross_entropy(logits, torch.tensor([[[0]]])).item() == 0


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5])])
def test_all_void_gives_zero_and_zero_gradients(weight):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 4, 5), VOID), weight)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8, torch.bool])
def test_target_of_wrong_dtype_is_refused(dtype):
    with pytest.raises(TypeError, match=rf"target has dtype {dtype}; expected torch.int64"):
        pixel_cross_entropy(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=dtype))


def test_an_image_is_no_target():
    """torch reads a float picture of three channels as soft labels when there are three classes;
    here it is refused."""
    image, logits = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    nn.functional.cross_entropy(logits, image)  # no error there
    with pytest.raises(TypeError, match="target has dtype torch.float32"):
        pixel_cross_entropy(logits, image)


@pytest.mark.parametrize("shape", [(1, 3, 2), (1, 2, 2, 1), (2, 2, 2), (2, 2), (1, 3, 2, 2)])
def test_target_of_wrong_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"logits has shape \(1, 3, 2, 2\) and target \(.*\); expected"
    ):
        pixel_cross_entropy(torch.zeros(1, 3, 2, 2), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [-1, 3, 254, 256])
def test_target_of_wrong_class_is_refused(wrong):
    target = torch.tensor([[[0, wrong], [2, VOID]]])
    with pytest.raises(ValueError, match=rf"target holds .*{wrong}.*; expected 0..2 or void 255"):
        pixel_cross_entropy(torch.zeros(1, 3, 2, 2), target)


def test_a_batch_of_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"logits has shape \(0, 3, 2, 2\) .*N at least 1"):
        pixel_cross_entropy(torch.zeros(0, 3, 2, 2), torch.zeros(0, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    "weight",
    [[1.0, -1.0, 1.0], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0], [1.0, 1.0], [[1.0] * 3]],
)
def test_class_weights_out_of_range(weight):
    weight, logits, target = (
        torch.tensor(weight),
        torch.zeros(1, 3, 2, 2),
        torch.zeros(1, 2, 2).long(),
    )
    with pytest.raises(
        ValueError, match=r"weight is \[.*\]; expected 3 finite numbers of at least"
    ):
        pixel_cross_entropy(logits, target, weight)
    with pytest.raises(ValueError, match=r"region_weights is \[.*\]; expected 3 finite numbers"):
        FusionLoss(region_weights=weight)


def test_a_class_may_weigh_nothing():
    logits, target = torch.randn(1, 3, 1, 2), torch.tensor([[[0, 1]]])
    weighted = pixel_cross_entropy(logits, target, torch.tensor([0.0, 2.0, 1.0]))
    torch.testing.assert_close(weighted, pixel_cross_entropy(logits[..., 1:], target[..., 1:]))


# --- the sum -----------------------------------------------------------------------------------


def fusion_case():
    torch.manual_seed(1)
    outputs = {"semantic": torch.randn(2, 5, 4, 4), "region": torch.randn(2, 3, 4, 4)}
    batch = {
        "semantic": torch.randint(0, 5, (2, 4, 4)),
        "region_target": torch.randint(0, 3, (2, 4, 4)),
    }
    batch["semantic"][0, 0] = VOID
    batch["region_target"][1, :, 2] = VOID
    return outputs, batch


@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.3, 0.7), (2.0, 0.0), (0.0, 5.0), (0, 0)])
def test_total_is_alpha_times_one_plus_beta_times_the_other(alpha, beta):
    outputs, batch = fusion_case()
    weights = torch.tensor([2.0, 1.0, 0.5])
    parts = FusionLoss(alpha, beta, weights)(outputs, batch)
    semantic = by_hand(outputs["semantic"].double().numpy(), batch["semantic"].numpy())
    region = by_hand(
        outputs["region"].double().numpy(), batch["region_target"].numpy(), weights.numpy()
    )
    assert parts["semantic"].item() == pytest.approx(semantic, abs=1e-6)
    assert parts["region"].item() == pytest.approx(region, abs=1e-6)
    assert parts["total"].item() == pytest.approx(alpha * semantic + beta * region, abs=2e-6)
    assert set(parts) == {"total", "semantic", "region"} and all(
        part.shape == () for part in parts.values()
    )


def test_one_task_enters_alone():
    outputs, batch = fusion_case()
    both = FusionLoss(0.3, 0.7)(outputs, batch)
    for task, weight in (("semantic", 0.3), ("region", 0.7)):
        one = FusionLoss(0.3, 0.7)({task: outputs[task]}, batch)
        assert set(one) == {"total", task}
        torch.testing.assert_close(one["total"], weight * both[task])


def encoder_gradient(alpha: float, beta: float) -> torch.Tensor:
    model = tiny_model().eval()  # so that batch normalisation adds no dependence
    samples = tiny_samples(2)
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    FusionLoss(alpha, beta)(model(batch["image"]), batch)["total"].backward()
    return torch.cat([p.grad.flatten() for p in model.encoder.parameters()])


def test_gradient_in_the_encoder_is_linear_in_alpha_and_beta():
    semantic, region = encoder_gradient(1, 0), encoder_gradient(0, 1)
    assert semantic.norm() > 0 and region.norm() > 0
    for alpha, beta in ((1, 1), (0.25, 0.75), (3, 0.1)):
        torch.testing.assert_close(
            encoder_gradient(alpha, beta), alpha * semantic + beta * region, rtol=1e-4, atol=1e-6
        )
    assert encoder_gradient(0, 0).abs().max() == 0


def test_all_void_batch_gives_zero_and_zero_gradients_everywhere():
    model = tiny_model()
    void = torch.full((2, 16, 16), VOID)
    loss = FusionLoss(1.0, 1.0, torch.ones(3))
    parts = loss(model(torch.rand(2, 3, 16, 16)), {"semantic": void, "region_target": void})
    parts["total"].backward()
    assert parts["total"].item() == 0
    assert all((p.grad == 0).all() for p in model.parameters())


def test_one_task_void_leaves_the_other_to_learn():
    outputs, batch = fusion_case()
    batch["semantic"][:] = VOID
    parts = FusionLoss()(outputs, batch)
    assert parts["semantic"].item() == 0
    torch.testing.assert_close(parts["total"], parts["region"])


def test_class_weights_go_with_the_module():
    loss = FusionLoss(1, 1, torch.tensor([2.0, 1.0, 0.5])).to(torch.float64)
    assert loss.region_weights.dtype == torch.float64
    assert "region_weights" in loss.state_dict()


def test_regions_may_be_numbered_in_any_way():
    """The point of the region target: permuting ids leaves the loss as it is."""
    from examples import permuted_ids, random_region_map

    from fusion_lib.targets import region_target

    region = random_region_map(2)
    logits = torch.randn(1, 3, *region.shape)
    losses = {
        pixel_cross_entropy(
            logits, torch.from_numpy(region_target(permuted_ids(region, seed), 2))[None]
        ).item()
        for seed in range(5)
    }
    assert len(losses) == 1


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_task_weight_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}; expected a finite number"):
        FusionLoss(**{name: value})


def test_target_missing_in_the_batch():
    outputs, batch = fusion_case()
    del batch["region_target"]
    with pytest.raises(
        ValueError,
        match=r"batch has \['semantic'\]; task 'region' expects its target as 'region_target'",
    ):
        FusionLoss()(outputs, batch)


def test_no_task_is_called_as_the_sum_is():
    outputs, batch = fusion_case()
    outputs["total"], batch["total"] = outputs["region"], batch["region_target"]
    for call in (
        lambda: FusionLoss()(outputs, batch),
        lambda: FusionLoss().normalisers(outputs, batch),
    ):
        with pytest.raises(ValueError, match="a task is called 'total'"):
            call()


def test_unknown_task():
    outputs, batch = fusion_case()
    with pytest.raises(ValueError, match="task 'depth'"):
        FusionLoss()({"depth": outputs["region"]}, batch)


def test_a_further_task_called_alpha_hides_no_weight():
    with pytest.raises(ValueError, match="alpha is -1; expected a finite number of at least 0"):
        FusionLoss(alpha=-1, further={"alpha": 1})
