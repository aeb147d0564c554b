"""What stays as it is, and how fast the rest learns: frozen stages, and groups of parameters with
rates of their own."""

import copy

import pytest
import torch
from examples import tiny_loaders, tiny_model
from torch import nn

from fusion_lib.losses import FusionLoss
from fusion_lib.models import FusionModel, TwoNetworks, count_parameters, encoders, parameter_groups
from fusion_lib.training import train

BOTH = {"semantic": 3, "region": 3}
CPU = torch.device("cpu")


def model_of(encoder: str, **options) -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(BOTH, encoder=encoder, width=4, **options)


def moved(before: dict, model: nn.Module) -> set[str]:
    """Names of parameters and running statistics that are no longer what they were."""
    return {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }


def of_stages(model: FusionModel, stages: int) -> set[str]:
    """Names of all that belongs to the first stages of the encoder."""
    there = {
        id(t)
        for stage in list(model.encoder.stages)[:stages]
        for t in (*stage.parameters(), *stage.buffers())
    }
    return {
        name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in there
    }


def step(model: nn.Module) -> None:
    """One step of training, as the loop takes it, with weight decay; far enough for every weight to
    move."""
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), weight_decay=0.1)
    sum(logits.square().mean() for logits in model(torch.rand(4, 3, 32, 32)).values()).backward()
    optimizer.step()


# --- frozen stages -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["small", "lite0", "resnet18", "mobilenet_v3_large"])
@pytest.mark.parametrize("stages", [0, 1, 3, 5])
def test_frozen_stages_stay_as_they_are_and_all_else_moves(encoder, stages):
    model = model_of(encoder, frozen_stages=stages)
    before = copy.deepcopy(model.state_dict())
    frozen = of_stages(model, stages)
    assert bool(frozen) == (stages > 0)
    for _ in range(2):
        step(model)
    everything = {name for name in before if before[name].is_floating_point()}
    assert moved(before, model) & everything == everything - frozen
    assert not moved(before, model) & frozen  # the counters of batches included


def test_every_stage_of_an_encoder_is_found_and_together_they_are_the_encoder():
    for encoder in ("small", *encoders.NAMES):
        model = model_of(encoder)
        parts = [list(stage.parameters()) for stage in model.encoder.stages]
        assert len(parts) == len(model.encoder.channels) and all(parts)
        assert [id(p) for part in parts for p in part] == [
            id(p) for p in model.encoder.parameters()
        ]


def test_a_stage_is_what_makes_its_feature_map():
    """A change in stage s changes the feature maps from s on, and none before."""
    for encoder in ("small", *encoders.NAMES):
        model = model_of(encoder).eval()
        images = torch.rand(1, 3, 64, 64)
        before = model.encoder(images)
        for number, stage in enumerate(model.encoder.stages):
            kept = copy.deepcopy(stage.state_dict())
            with torch.no_grad():
                next(stage.parameters()).mul_(1.5)
            same = [torch.equal(one, other) for one, other in zip(before, model.encoder(images))]
            stage.load_state_dict(kept)
            assert same == [True] * number + [False] * (5 - number), encoder


def test_the_training_loop_moves_nothing_that_is_frozen():
    """It calls model.train() at the start of every epoch, and looks at the model in evaluation mode
    in between."""
    model = tiny_model()
    model.freeze(2)
    before = copy.deepcopy(model.state_dict())
    train(model, FusionLoss(), *tiny_loaders(), epochs=3, device=CPU, learning_rate=1e-2)
    frozen = of_stages(model, 2)
    assert frozen and not moved(before, model) & frozen
    assert moved(before, model) >= {
        "encoder.stages.2.0.0.weight",
        "encoder.stages.2.0.1.running_mean",
    }


def test_frozen_stages_give_in_training_what_they_give_in_evaluation():
    model = model_of("small", frozen_stages=5)
    images = torch.rand(2, 3, 32, 32)
    evaluated = [feature.clone() for feature in model.eval().encoder(images)]
    for feature, expected in zip(model.train().encoder(images), evaluated):
        assert torch.equal(feature, expected) and not feature.requires_grad
    assert model.training and model.decoder.training and not model.encoder.stages[4].training


def test_freezing_may_be_changed_and_undone():
    model = model_of("small", frozen_stages=5)
    whole = count_parameters(FusionModel(BOTH, width=4))
    assert count_parameters(model) == whole - sum(p.numel() for p in model.encoder.parameters())
    model.freeze(1)
    assert not model.encoder.stages[0].training and model.encoder.stages[1].training
    model.freeze(0)
    assert count_parameters(model) == whole and all(module.training for module in model.modules())


def test_freezing_does_not_leave_evaluation_mode():
    model = model_of("small").eval()
    model.freeze(2)
    model.freeze(1)
    assert not any(module.training for module in model.modules())
    assert model.train() is model and model.eval() is model


def test_two_networks_freeze_both_encoders():
    model = TwoNetworks(BOTH, width=4, frozen_stages=2)
    before = copy.deepcopy(model.state_dict())
    step(model)
    still = set(before) - moved(before, model)
    for task in BOTH:
        assert any(name.startswith(f"networks.{task}.encoder.stages.1") for name in still)
        assert not any(name.startswith(f"networks.{task}.encoder.stages.2.0.0") for name in still)


def test_a_compiled_model_keeps_its_frozen_stages():
    model = model_of("small", frozen_stages=2)
    compiled = torch.compile(model, backend="eager")
    compiled.train()
    before = copy.deepcopy(model.state_dict())
    compiled(torch.rand(2, 3, 32, 32))
    assert not moved(before, model) & of_stages(model, 2) and moved(before, model)


def test_a_checkpoint_comes_back_free(tmp_path):
    """What was frozen is a matter of the training, not of the model."""
    from fusion_lib.engine.checkpoints import load_checkpoint, save_checkpoint

    model = model_of("small", frozen_stages=3)
    assert "frozen_stages" not in model.config
    save_checkpoint(model, tmp_path / "frozen.safetensors")
    assert all(
        p.requires_grad for p in load_checkpoint(tmp_path / "frozen.safetensors")[0].parameters()
    )


@pytest.mark.parametrize("stages", [-1, 6, 1.5, None, "all"])
def test_stages_that_are_not_there(stages):
    with pytest.raises(
        ValueError, match=r"frozen_stages is .*; expected 0 \(none\) to 5 \(the whole encoder\)"
    ):
        FusionModel(BOTH, width=4, frozen_stages=stages)


# --- groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda **o: FusionModel(BOTH, width=4, **o), lambda **o: TwoNetworks(BOTH, width=4, **o)],
)
@pytest.mark.parametrize("stages", [0, 2, 5])
@pytest.mark.parametrize("factor", [1.0, 0.1, 2.0])
def test_every_parameter_that_learns_is_in_one_group_with_the_stated_rate(make, stages, factor):
    model = make(frozen_stages=stages)
    rates = {}
    for group in parameter_groups(model, 8e-3, factor):
        assert group["params"]
        for parameter in group["params"]:
            assert id(parameter) not in rates
            rates[id(parameter)] = group["lr"]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 8e-3 * factor if "encoder." in name else 8e-3
            assert rates.pop(id(parameter)) == pytest.approx(expected), name
    assert not rates  # none that is frozen


def test_with_equal_rates_there_is_one_group_in_the_models_own_order():
    """So that runs without the factor go on as they were."""
    (group,) = parameter_groups(model := FusionModel(BOTH, width=4), 1e-3)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()] and group[
        "lr"
    ] == 1e-3
    assert len(parameter_groups(nn.Linear(2, 3), 1e-3)[0]["params"]) == 2


def test_the_first_group_is_that_of_decoder_and_heads():
    first, second = parameter_groups(FusionModel(BOTH, width=4), 1e-3, 0.1)
    assert (first["lr"], second["lr"]) == (1e-3, 1e-4)


def test_rates_rise_and_fall_together_over_the_cycle():
    """OneCycleLR takes one highest rate a group."""
    groups = parameter_groups(FusionModel(BOTH, width=4), 1e-2, 0.1)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=20
    )
    for _ in range(19):
        decoder, encoder = schedule.get_last_lr()
        assert encoder == pytest.approx(0.1 * decoder)
        optimizer.step()
        schedule.step()


def test_a_lower_rate_moves_the_encoder_less():
    def change(factor: float) -> float:
        torch.manual_seed(0)
        model = FusionModel(BOTH, width=4)
        before = [p.detach().clone() for p in model.encoder.parameters()]
        optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2, factor), weight_decay=0.0)
        sum(
            logits.square().mean() for logits in model(torch.rand(2, 3, 32, 32)).values()
        ).backward()
        optimizer.step()
        return sum((p - b).abs().sum().item() for p, b in zip(model.encoder.parameters(), before))

    assert change(0.1) == pytest.approx(0.1 * change(1.0), rel=1e-2)


@pytest.mark.parametrize("factor", [0, -0.1, float("nan"), float("inf")])
def test_factor_out_of_range(factor):
    with pytest.raises(
        ValueError, match=rf"encoder_factor is {factor}; expected a number above 0 \(freeze"
    ):
        parameter_groups(FusionModel(BOTH, width=4), 1e-3, factor)
