"""Encoders of torchvision as feature pyramids, and the download of their weights from a server on
this machine."""

import copy
import hashlib
import io
import math

import pytest
import torch
import torchvision
from test_datasets import server

from fusion_lib.models import FusionModel, TwoNetworks, encoders
from fusion_lib.models.encoders import (
    NAMES,
    TORCHVISION,
    TorchvisionEncoder,
    backbone,
    imagenet_weights,
)

BOTH = {"semantic": 5, "region": 3}
torchvision_names = pytest.mark.parametrize("name", TORCHVISION)


# --- the pyramid -------------------------------------------------------------------------------


@torchvision_names
def test_every_stage_halves_the_picture(name):
    encoder = backbone(name, pretrained=False).eval()
    features = encoder(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[2:]) for f in features] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert [f.shape[1] for f in features] == encoder.channels and len(encoder.stages) == 5


@torchvision_names
def test_a_stage_ends_right_before_the_next_halving(name):
    """So each feature map is the last one of its size: a stage's first module halves, none of the
    others does."""
    x = torch.rand(1, 3, 64, 64)
    for stage in backbone(name, pretrained=False).eval().stages:
        sizes = [x.shape[2]] + [(x := module(x)).shape[2] for module in stage]
        assert sizes[1:] == [sizes[0] // 2] * len(stage)


@torchvision_names
def test_features_are_those_of_the_whole_network(name):
    """An oracle: torchvision's own way to look inside a network finds the same feature maps."""
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(5)
    whole = torchvision.models.get_model(name, weights=None)
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # so that the statistics matter too
    encoder = TorchvisionEncoder(name, pretrained=False)
    paths = [path for stage in TORCHVISION[name][1] for path in stage.split()]
    mine = dict(zip(paths, (module for stage in encoder.stages for module in stage)))
    for path, module in mine.items():
        module.load_state_dict(whole.get_submodule(path).state_dict())
    last = [stage.split()[-1] for stage in TORCHVISION[name][1]]
    expected = create_feature_extractor(whole.eval(), last)(images := torch.rand(1, 3, 40, 56))
    for feature, path in zip(encoder.eval()(images), last):
        torch.testing.assert_close(feature, expected[path])


@torchvision_names
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 50), (45, 33)])
def test_logits_have_the_size_of_the_picture(name, size):
    model = FusionModel(BOTH, encoder=name, width=4)
    for mode in (True, False):
        outputs = model.train(mode)(torch.rand(2, 3, *size))
        assert {task: tuple(logits.shape) for task, logits in outputs.items()} == {
            "semantic": (2, 5, *size),
            "region": (2, 3, *size),
        }


@torchvision_names
def test_every_stage_learns_and_nothing_is_carried_along(name):
    """The classifier of the network is left behind: every parameter gets a gradient."""
    model = FusionModel(BOTH, encoder=name, width=4)
    sum(logits.square().mean() for logits in model(torch.rand(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(
        sum(p.grad.abs().sum() for p in stage.parameters()) > 0 for stage in model.encoder.stages
    )


@torchvision_names
def test_config_rebuilds_the_model_without_the_network(name):
    model = FusionModel(BOTH, encoder=name, width=4)
    again = FusionModel(**model.config)
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again.eval()(images)["region"], model.eval()(images)["region"])


def test_unknown_backbone_is_told_which_there_are():
    with pytest.raises(
        ValueError, match=f"encoder is 'resnet34'; expected one of: small, {', '.join(NAMES)}$"
    ):
        FusionModel(BOTH, encoder="resnet34")


@torchvision_names
def test_named_weights_exist_and_can_be_checked(name):
    """torch reads the first digits of the hash from the file's name, and checks nothing where there
    are none."""
    weights = torchvision.models.get_model_weights(name)[TORCHVISION[name][0]]
    assert torch.hub.HASH_REGEX.search(weights.url) and weights.meta["num_params"] > 1e6
    preset = weights.transforms()
    assert tuple(preset.mean) == FusionModel.MEAN and tuple(preset.std) == FusionModel.STD


# --- the weights -------------------------------------------------------------------------------


@pytest.fixture
def weights_file(tmp_path, monkeypatch):
    """A stand-in for the file of ResNet-18's weights: every number known. Yields its content."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(9)
    buffer = io.BytesIO()
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), buffer)
    return buffer.getvalue()


def point_to(monkeypatch, address: str, content: bytes) -> str:
    """Let torchvision fetch from here a file whose name holds the hash of `content`; the file's
    name."""
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", address.rpartition("/")[0] + "/" + name)
    return name


def downloads(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "torch").rglob("*") if path.is_file())


def test_weights_are_fetched_once_and_loaded(tmp_path, monkeypatch, weights_file):
    with server(weights_file) as (address, seen):
        name = point_to(monkeypatch, address, weights_file)
        torch.manual_seed(0)
        model = FusionModel(BOTH, encoder="resnet18", width=4, pretrained=True)
        two = TwoNetworks(BOTH, encoder="resnet18", width=4, pretrained=True)
        assert len(seen) == 1 and downloads(tmp_path) == [name]
    expected = torch.load(io.BytesIO(weights_file), weights_only=True)
    for encoder in (
        model.encoder,
        two.networks["semantic"].encoder,
        two.networks["region"].encoder,
    ):
        assert torch.equal(encoder.stages[0][0].weight, expected["conv1.weight"])
        assert torch.equal(encoder.stages[4][0][1].conv2.weight, expected["layer4.1.conv2.weight"])
    fresh = FusionModel(BOTH, encoder="resnet18", width=4)
    assert not torch.equal(fresh.encoder.stages[0][0].weight, expected["conv1.weight"])


@pytest.mark.parametrize("content", ["error page", "altered", "cut off"])
def test_a_download_that_is_not_what_was_asked_for_is_not_kept(
    tmp_path, monkeypatch, weights_file, content
):
    """Also where the server says that all is well (status 200)."""
    sent = {"error page": b"<html>quota exceeded</html>", "altered": weights_file[:-1] + b"?"}.get(
        content, weights_file
    )
    with server(sent, cut=1000 if content == "cut off" else None) as (address, seen):
        point_to(monkeypatch, address, weights_file)
        with pytest.raises(
            OSError,
            match=r"weights of encoder 'resnet18' could not be fetched whole .*; nothing was kept. "
            r"Call again .* 'lite0' needs no network",
        ):
            FusionModel(BOTH, encoder="resnet18", pretrained=True)
        assert downloads(tmp_path) == []
        if content == "cut off":  # only the first answer was
            assert imagenet_weights("resnet18")["fc.bias"].shape == (1000,) and len(seen) == 2


def test_no_network(tmp_path, monkeypatch, weights_file):
    with server(b"") as (address, _):
        pass  # the server is gone again
    point_to(monkeypatch, address, weights_file)
    with pytest.raises(
        OSError, match=r"could not be fetched whole from http.*'lite0' needs no network"
    ):
        FusionModel(BOTH, encoder="resnet18", pretrained=True)
    assert downloads(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut short", "empty", "text"])
def test_a_file_that_was_damaged_since_is_named(tmp_path, monkeypatch, weights_file, damage):
    with server(weights_file) as (address, seen):
        name = point_to(monkeypatch, address, weights_file)
        imagenet_weights("resnet18")
        (path,) = (tmp_path / "torch").rglob("*.pth")
        path.write_bytes(
            {"cut short": weights_file[:5000], "empty": b"", "text": b"not weights"}[damage]
        )
        with pytest.raises(
            ValueError, match=rf"(?s){name} was fetched once and does not load any more .*delete it"
        ):
            imagenet_weights("resnet18")
        assert len(seen) == 1 and downloads(tmp_path) == [name]


def test_weights_that_are_no_plain_weights_are_never_run(tmp_path, monkeypatch, weights_file):
    """A pickle that would call a function when it is read."""
    buffer = io.BytesIO()
    torch.save({"conv1.weight": torch.ones(1), "trap": math.sqrt}, buffer)
    with server(buffer.getvalue()) as (address, _):
        point_to(monkeypatch, address, buffer.getvalue())
        with pytest.raises(ValueError, match="does not load any more"):
            imagenet_weights("resnet18")


def test_names_are_lite0_and_torchvisions():
    assert ("lite0", *TORCHVISION) == NAMES and set(TORCHVISION) <= set(
        torchvision.models.list_models(torchvision.models)
    )
    assert encoders.backbone("resnet18", False).channels is not TORCHVISION["resnet18"][2]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_has_stages_of_its_own(name):
    """They share nothing with the original's, and are made of the copy's own parameters."""
    encoder = backbone(name, pretrained=False)
    before = {parameter.data_ptr() for parameter in encoder.parameters()}
    twin = copy.deepcopy(encoder)
    stages = [p for stage in twin.stages for p in stage.parameters()]
    assert {id(p) for p in stages} <= {id(p) for p in twin.parameters()}
    assert not {p.data_ptr() for p in stages} & before
