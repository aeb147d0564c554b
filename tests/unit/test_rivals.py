"""Other libraries' decoders on our encoder: shapes, size, gradients, refusals."""

import sys

import pytest
import torch

from fusion_lib.lab import recipes
from fusion_lib.lab.rivals import DECODERS, Rival
from fusion_lib.models import FusionModel, count_parameters, parameter_groups

SEMANTIC = {"semantic": 8}


def rival(decoder: str) -> Rival:
    torch.manual_seed(0)
    return Rival(SEMANTIC, decoder, pretrained=False)


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_have_the_pictures_size_and_every_parameter_learns(decoder):
    model = rival(decoder).train()
    outputs = model(torch.rand(2, 3, 64, 96))
    assert list(outputs) == ["semantic"] and outputs["semantic"].shape == (2, 8, 64, 96)
    outputs["semantic"].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_budget_of_parameters_is_that_of_the_single_task_network(decoder):
    ours = count_parameters(
        FusionModel(SEMANTIC, **{**recipes.PHOTOGRAPHS.model, "pretrained": False})
    )
    assert 0.95 < count_parameters(rival(decoder)) / ours < 1.05


@pytest.mark.parametrize("decoder", DECODERS)
def test_encoder_is_the_same_and_sees_normalised_pictures(decoder):
    """The same feature maps reach the other decoder as reach ours."""
    model, ours = rival(decoder).eval(), FusionModel(SEMANTIC, encoder="lite0").eval()
    ours.encoder.load_state_dict(model.encoder.state_dict())
    seen = []
    for network in (model, ours):
        network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        network(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(*seen)
    assert len(parameter_groups(model, 0.1)[0]["params"]) == len(list(model.parameters()))


def test_unknown_decoder_and_other_tasks():
    with pytest.raises(ValueError, match="decoder is 'PSPNet'; expected one of: Unet, FPN, LRASPP"):
        Rival(SEMANTIC, "PSPNet")
    with pytest.raises(
        ValueError, match=r"outputs is .*'region'.*; expected the semantic task alone"
    ):
        Rival(recipes.TASKS, "FPN")


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"this decoder needs segmentation_models_pytorch; .*fusion_lib\[rivals\]",
    ):
        rival("Unet")
    assert rival("LRASPP")  # torchvision's needs nothing
