"""Encoder, decoder, what stands between the tasks, the fused model and the two separate
networks."""

import json

import numpy as np
import pytest
import torch
from examples import tiny_model
from safetensors import safe_open
from scipy.signal import correlate2d
from torch import nn
from torch.nn import functional as F

from fusion_lib.engine.files import data_file
from fusion_lib.models import (
    SHARING,
    AttentionMasks,
    ConvBlock,
    ConvEncoder,
    CrossTaskGates,
    Decoder,
    FusionModel,
    HardSharing,
    TwoNetworks,
    count_parameters,
)
from fusion_lib.models.sharing import OwnBlocks

BOTH = {"semantic": 5, "region": 3}


def gradient_norm(module: nn.Module) -> float:
    return sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)


# --- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (17, 31), (48, 20), (33, 64)])
def test_logits_have_the_size_of_the_picture(size, sharing):
    model = FusionModel(BOTH, width=4, sharing=sharing).eval()
    outputs = model(torch.rand(2, 3, *size))
    assert {task: tuple(logits.shape) for task, logits in outputs.items()} == {
        "semantic": (2, 5, *size),
        "region": (2, 3, *size),
    }


def test_encoder_halves_and_widens():
    features = ConvEncoder(4)(torch.rand(1, 3, 32, 48))
    assert [tuple(f.shape[1:]) for f in features] == [
        (4, 32, 48),
        (8, 16, 24),
        (16, 8, 12),
        (32, 4, 6),
        (32, 2, 3),
    ]


def test_decoder_gives_features_at_the_finest_size():
    features = [torch.rand(2, 5, 20, 12), torch.rand(2, 8, 10, 6), torch.rand(2, 8, 5, 3)]
    assert Decoder([5, 8, 8], width=4)(features).shape == (2, 4, 20, 12)


def test_every_feature_map_reaches_the_decoders_result():
    decoder = Decoder([4, 8, 8], width=4).eval()
    features = [torch.rand(1, c, s, s, requires_grad=True) for c, s in ((4, 16), (8, 8), (8, 4))]
    decoder(features).square().sum().backward()
    assert all(feature.grad.abs().sum() > 0 for feature in features)


def test_shared_features_are_those_of_the_finest_stage():
    model = tiny_model(outputs=BOTH).eval()
    images = torch.rand(2, 3, 20, 24)
    shared = model.features(images)
    assert shared.shape == (2, 4, 20, 24)
    for task, logits in model(images).items():
        torch.testing.assert_close(logits, model.heads[task](shared))


# --- oracles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_block_against_scipy(stride):
    """Cross-correlation with zero padding, batch normalisation with its running statistics,
    ReLU."""
    block = ConvBlock(2, 3, stride).eval()
    norm = block[1]
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(3))
        norm.running_var.copy_(torch.rand(3) + 0.5)
    image = torch.randn(1, 2, 7, 6)
    for channel in range(3):
        kernels = block[0].weight[channel].detach().numpy()
        plain = sum(correlate2d(image[0, k], kernels[k], mode="same") for k in range(2))[
            ::stride, ::stride
        ]
        scaled = (plain - norm.running_mean[channel].item()) / np.sqrt(
            norm.running_var[channel].item() + norm.eps
        )
        expected = np.maximum(scaled * norm.weight[channel].item() + norm.bias[channel].item(), 0)
        np.testing.assert_allclose(block(image)[0, channel].detach(), expected, atol=1e-5)


def test_decoder_by_its_equations():
    """x_2 = B_2(L_2 f_2), x_1 = B_1(L_1 f_1 + up x_2), y = L_0 f_0 + up x_1, x_0 = B_0(y + R(y)): R
    on the finest alone."""
    decoder = Decoder([4, 6, 8], width=3).eval()
    f = [torch.rand(1, 4, 11, 8), torch.rand(1, 6, 6, 4), torch.rand(1, 8, 3, 2)]
    lateral, blocks = decoder.lateral, decoder.blocks
    x = blocks[2](lateral[2](f[2]))
    x = blocks[1](lateral[1](f[1]) + F.interpolate(x, (6, 4), mode="bilinear"))
    y = lateral[0](f[0]) + F.interpolate(x, (11, 8), mode="bilinear")
    torch.testing.assert_close(decoder(f), blocks[0](y + decoder.refine(y)))
    assert [block[0].out_channels for block in blocks] == [3, 3, 6] and decoder.refine[
        0
    ].out_channels == 3


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


# --- between the shared features and the classifiers -------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def pointwise(conv: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """A 1 x 1 convolution, pixel by pixel: (C, H, W) -> (C', H, W)."""
    weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()
    result = np.empty((len(weight), *x.shape[1:]))
    for place in np.ndindex(x.shape[1:]):
        pixel = (slice(None), *place)
        result[pixel] = weight @ x[pixel] + bias
    return result


def set_bias(convs: nn.ModuleDict, value: float) -> None:
    for conv in convs.values():
        nn.init.constant_(conv.bias, value)


def test_attention_masks_by_their_equation():
    """F_t = sigmoid(W_t F + b_t) F, for each pixel and channel."""
    masks = AttentionMasks(["semantic", "region"], 3)
    shared = torch.randn(1, 3, 4, 5)
    features, opened = masks(shared), masks.open(shared)
    assert set(features) == set(opened) == {"semantic", "region"}
    for task in features:
        expected = sigmoid(pointwise(masks.masks[task], shared[0].numpy()))
        np.testing.assert_allclose(opened[task][0].detach(), expected, atol=1e-6)
        np.testing.assert_allclose(
            features[task][0].detach(), expected * shared[0].numpy(), atol=1e-6
        )
    assert not torch.equal(features["semantic"], features["region"])


def test_masks_open_and_closed():
    masks, shared = AttentionMasks(["semantic", "region"], 3), torch.randn(2, 3, 4, 4)
    set_bias(masks.masks, 60.0)
    torch.testing.assert_close(masks(shared)["region"], shared)
    set_bias(masks.masks, -60.0)
    assert masks(shared)["region"].abs().max() < 1e-12


@pytest.mark.parametrize("tasks", [["semantic", "region"], ["semantic", "region", "depth"]])
def test_cross_task_gates_by_their_equation(tasks):
    """G_t = F_t + sum over the other tasks o of sigmoid(W_to [F_t, F_o] + b_to) F_o, with F_t =
    ConvBlock_t(F)."""
    gates = CrossTaskGates(tasks, 3).eval()
    shared = torch.randn(1, 3, 4, 5)
    own = {task: gates.own[task](shared) for task in tasks}
    features, opened = gates(shared), gates.open(own)
    assert set(opened) == {
        f"{other} to {task}" for task in tasks for other in tasks if other != task
    }
    for task in tasks:
        mine = own[task][0].detach().numpy()
        expected = mine.copy()
        for other in set(tasks) - {task}:
            theirs, name = own[other][0].detach().numpy(), f"{other} to {task}"
            gate = sigmoid(pointwise(gates.gates[name], np.concatenate([mine, theirs])))
            np.testing.assert_allclose(opened[name][0].detach(), gate, atol=1e-6)
            expected += gate * theirs
        np.testing.assert_allclose(features[task][0].detach(), expected, atol=1e-6)


def test_own_blocks_are_a_block_a_task():
    torch.manual_seed(3)
    blocks, shared = OwnBlocks(["semantic", "region"], 3).eval(), torch.randn(2, 3, 4, 4)
    features = blocks(shared)
    for task in ("semantic", "region"):
        torch.testing.assert_close(features[task], blocks.own[task](shared))
    assert not torch.equal(features["semantic"], features["region"])


def test_gates_open_and_closed():
    """Closed, each task keeps its own features; open, it adds all of the other's."""
    gates, shared = CrossTaskGates(["semantic", "region"], 3).eval(), torch.randn(2, 3, 4, 4)
    own = {task: gates.own[task](shared) for task in gates.own}
    set_bias(gates.gates, -60.0)
    torch.testing.assert_close(gates(shared), own)
    set_bias(gates.gates, 60.0)
    torch.testing.assert_close(gates(shared)["semantic"], own["semantic"] + own["region"])


def test_gates_between_three_tasks_lead_from_every_task_to_every_other():
    """Only the gate from depth to region is open: region alone receives, and from depth alone."""
    gates, shared = (
        CrossTaskGates(["semantic", "region", "depth"], 3).eval(),
        torch.randn(1, 3, 4, 4),
    )
    own = {task: gates.own[task](shared) for task in gates.own}
    set_bias(gates.gates, -60.0)
    nn.init.constant_(gates.gates["depth to region"].bias, 60.0)
    expected = {**own, "region": own["region"] + own["depth"]}
    torch.testing.assert_close(gates(shared), expected)


def test_hard_sharing_gives_every_task_the_very_features():
    shared = torch.rand(2, 3, 4, 4)
    features = HardSharing(["semantic", "region"], 3)(shared)
    assert list(features) == ["semantic", "region"]
    assert all(feature is shared for feature in features.values())
    assert not list(HardSharing(["semantic"], 3).parameters())


@pytest.mark.parametrize("sharing", SHARING)
def test_forward_is_encoder_decoder_sharing_heads(sharing):
    model = FusionModel(BOTH, width=4, encoder="lite0", sharing=sharing).eval()
    images = torch.rand(1, 3, 32, 64)
    shared = model.decoder(model.encoder((images - model.mean) / model.std))
    torch.testing.assert_close(model.features(images), shared)
    for task, features in model.sharing(shared).items():
        whole = F.interpolate(model.heads[task](features), (32, 64), mode="bilinear")
        torch.testing.assert_close(model(images)[task], whole)


@pytest.mark.parametrize(
    "file, tensors, some",
    [
        ("fused_scenes", 110, "decoder.refine.0.weight"),
        ("attention_scenes", 114, "sharing.masks.semantic.weight"),
        ("gates_scenes", 126, "sharing.gates.region to semantic.bias"),
        ("fused_photographs", 384, "sharing.own.region.blocks.0.0.weight"),
    ],
)
def test_shipped_models_keep_the_names_of_their_tensors(file, tensors, some):
    with safe_open(data_file(f"{file}.safetensors"), "pt") as stored:
        config, names = json.loads(stored.metadata()["config"]), set(stored.keys())
    model = FusionModel(**config)
    assert set(model.state_dict()) == names and len(names) == tensors and some in names
    assert model.config == config


@pytest.mark.parametrize("sharing", SHARING)
def test_one_task_alone_needs_no_other(sharing):
    model = FusionModel({"semantic": 4}, width=4, sharing=sharing)
    assert model(torch.rand(2, 3, 16, 16))["semantic"].shape == (2, 4, 16, 16)


# --- what is shared and what is not ------------------------------------------------------------


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("task, other", [("semantic", "region"), ("region", "semantic")])
def test_fused_model_shares_encoder_and_decoder_but_no_classifier(task, other, sharing):
    model = FusionModel(BOTH, width=4, sharing=sharing)
    model(torch.rand(2, 3, 16, 16))[task].square().mean().backward()
    assert gradient_norm(model.encoder) > 0 and (
        sharing == "decoders" or gradient_norm(model.decoder) > 0
    )
    assert gradient_norm(model.heads[task]) > 0 and gradient_norm(model.heads[other]) == 0
    if sharing in ("blocks", "decoders"):
        assert (
            gradient_norm(model.sharing.own[task]) > 0
            and gradient_norm(model.sharing.own[other]) == 0
        )
    if sharing == "attention":
        assert (
            gradient_norm(model.sharing.masks[task]) > 0
            and gradient_norm(model.sharing.masks[other]) == 0
        )
    if sharing == "gates":  # the gate into this task lets it train the other's features too
        assert gradient_norm(model.sharing.gates[f"{other} to {task}"]) > 0
        assert gradient_norm(model.sharing.gates[f"{task} to {other}"]) == 0
        assert (
            gradient_norm(model.sharing.own[task]) > 0
            and gradient_norm(model.sharing.own[other]) > 0
        )


@pytest.mark.parametrize("sharing", SHARING)
def test_shared_parameters_are_those_of_encoder_and_decoder_that_train(sharing):
    model = FusionModel(BOTH, width=4, sharing=sharing)
    names = {id(p): name for name, p in model.named_parameters()}
    shared = {names[id(p)] for p in model.shared_parameters()}
    assert shared == {name for name in names.values() if name.startswith(("encoder.", "decoder."))}
    model.encoder.requires_grad_(False)
    left = set() if sharing == "decoders" else {"decoder"}
    assert {names[id(p)].split(".")[0] for p in model.shared_parameters()} == left


def test_two_networks_share_nothing():
    model = TwoNetworks(BOTH, width=4)
    outputs = model(torch.rand(2, 3, 16, 16))
    assert {task: logits.shape[1] for task, logits in outputs.items()} == BOTH
    outputs["semantic"].square().mean().backward()
    assert (
        gradient_norm(model.networks["semantic"]) > 0
        and gradient_norm(model.networks["region"]) == 0
    )
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_two_networks_cost_one_encoder_and_decoder_more():
    fused, two = FusionModel(BOTH, width=4), TwoNetworks(BOTH, width=4)
    twice = count_parameters(fused.encoder) + count_parameters(fused.decoder)
    assert count_parameters(two) - count_parameters(fused) == twice
    assert count_parameters(fused) < 0.51 * count_parameters(two)


def test_two_networks_take_the_options_of_one():
    two = TwoNetworks(BOTH, width=4, sharing="attention")
    assert {network.config["sharing"] for network in two.networks.values()} == {"attention"}
    assert [network.config["outputs"] for network in two.networks.values()] == [
        {"semantic": 5},
        {"region": 3},
    ]


def test_two_networks_with_the_fused_weights_give_the_fused_logits():
    fused, two = tiny_model(outputs=BOTH).eval(), TwoNetworks(BOTH, width=4).eval()
    for task, network in two.networks.items():
        network.encoder.load_state_dict(fused.encoder.state_dict())
        network.decoder.load_state_dict(fused.decoder.state_dict())
        network.heads[task].load_state_dict(fused.heads[task].state_dict())
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


@pytest.mark.parametrize("sharing", SHARING)
def test_config_rebuilds_the_model(sharing):
    model = FusionModel(BOTH, width=4, sharing=sharing)
    again = FusionModel(**model.config)
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(again.eval()(images)["region"], model.eval()(images)["region"])


def test_width_is_that_of_the_finest_stage():
    assert FusionModel(BOTH, width=4).encoder.channels == [4, 8, 16, 32, 32]
    assert FusionModel(BOTH).encoder.channels[0] == 16
    assert FusionModel(BOTH, width=4).heads["region"].in_channels == 4


def test_config_is_a_copy():
    outputs = dict(BOTH)
    model = FusionModel(outputs, width=4)
    outputs["more"] = 9
    assert model.config["outputs"] == BOTH


def test_equal_seeds_give_equal_weights():
    one, other = tiny_model(3), tiny_model(3)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values())
    )


# --- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [FusionModel, TwoNetworks])
@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"semantic": 1},
        {"semantic": 8, "region": 0},
        {"semantic": 255},
        {"semantic": 10**9},
        {"semantic": 8.0},
        {"semantic": True},
        {"semantic": "8"},
        {"semantic": None},
    ],
)
def test_outputs_refused(outputs, network):
    with pytest.raises(
        ValueError, match="outputs is .*; expected at least one task, each with two classes"
    ):
        network(outputs)


@pytest.mark.parametrize("network", [FusionModel, TwoNetworks])
@pytest.mark.parametrize("outputs", [None, 8, [("semantic", 8)], ["semantic"], "semantic"])
def test_outputs_of_another_type(outputs, network):
    with pytest.raises(TypeError, match="outputs is .*; expected {task: number of classes}"):
        network(outputs)


@pytest.mark.parametrize("network", [FusionModel, TwoNetworks])
@pytest.mark.parametrize(
    "task",
    ["total", "score", "miou_x", "", "a.b", "region to semantic", "keys", "training", 3, None],
)
def test_names_that_a_task_cannot_have(task, network):
    with pytest.raises(ValueError, match=f"a task of outputs is {task!r}; expected a name"):
        network({"semantic": 8, task: 3})


def test_most_classes():
    """Label maps hold bytes, and 255 is no label."""
    assert FusionModel({"semantic": 254}, width=1).heads["semantic"].out_channels == 254


@pytest.mark.parametrize("width", [0, -4, 4.0, "4", None, True])
def test_width_refused(width):
    with pytest.raises(ValueError, match=f"width is {width!r}; expected a whole number"):
        FusionModel(BOTH, width=width)


def test_encoder_misspelt():
    with pytest.raises(
        ValueError,
        match=(
            "encoder is 'resnet'; expected one of: small, lite0, resnet18, resnet50, mobilenet_v3"
        ),
    ):
        FusionModel(BOTH, encoder="resnet")


def test_sharing_misspelt():
    with pytest.raises(
        ValueError,
        match="sharing is 'gate'; expected one of: hard, attention, blocks, gates, decoders",
    ):
        FusionModel(BOTH, sharing="gate")
    with pytest.raises(ValueError, match=r"sharing is \['hard'\]; expected one of"):
        FusionModel(BOTH, sharing=["hard"])


def test_small_encoder_has_no_pretrained_weights():
    with pytest.raises(ValueError, match="pretrained is True, .*; these have: lite0, resnet18"):
        FusionModel(BOTH, pretrained=True)


def test_images_of_wrong_dtype():
    with pytest.raises(TypeError, match="images has dtype torch.uint8; expected float"):
        tiny_model()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    "shape",
    [(0, 3, 16, 16), (3, 16, 16), (1, 1, 16, 16), (1, 16, 16, 3), (1, 3, 15, 16), (1, 3, 16, 8)],
)
def test_images_of_wrong_shape(shape):
    with pytest.raises(
        ValueError, match=r"images has shape \(.*\); expected \(N, 3, H, W\) with H, W >= 16"
    ):
        tiny_model()(torch.zeros(shape))


# --- the encoder from ImageNet ------------------------------------------------------------------


def lite0(pretrained: bool) -> FusionModel:
    return FusionModel(BOTH, encoder="lite0", width=4, pretrained=pretrained)


def test_lite0_shapes():
    model = lite0(pretrained=False).eval()
    features = model.encoder(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[2:]) for f in features] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert [f.shape[1] for f in features] == model.encoder.channels
    outputs = model(torch.rand(1, 3, 40, 50))
    assert outputs["semantic"].shape == (1, 5, 40, 50)
    assert model.features(torch.rand(1, 3, 40, 50)).shape == (1, 4, 20, 25)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (31, 70), (33, 16)])
def test_lite0_sees_small_pictures_too(size):
    model = lite0(pretrained=False)
    assert model.eval()(torch.rand(1, 3, *size))["region"].shape == (1, 3, *size)
    assert model.train()(torch.rand(2, 3, *size))["region"].shape == (2, 3, *size)


def test_lite0_pretrained_weights_load_without_a_network():
    """Pretrained encoders are equal whatever the seed, and not equal to a fresh one."""
    torch.manual_seed(0)
    one = lite0(pretrained=True).encoder.state_dict()
    torch.manual_seed(1)
    other, fresh = (
        lite0(pretrained=True).encoder.state_dict(),
        lite0(pretrained=False).encoder.state_dict(),
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], fresh["stem.0.weight"])


@pytest.mark.parametrize("highest, told", [(255.0, "255"), (2.64, "2.64")])
def test_images_of_bytes_or_normalised_ones(highest, told):
    """One pixel is enough; without it they are taken."""
    model, images = tiny_model().eval(), torch.ones(1, 3, 16, 16)
    model(images)
    images[0, 1, 2, 3] = highest
    with pytest.raises(ValueError, match=rf"images has values up to {told}; expected .*by 255"):
        model(images)
