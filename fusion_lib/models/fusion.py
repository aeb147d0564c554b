"""One encoder and decoder with a classifier for each task, and two networks to compare it with."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fusion_lib import checks
from fusion_lib.models.encoders import backbone
from fusion_lib.models.layers import resize
from fusion_lib.models.sharing import SHARING

HIGHEST = 1.01  # of pixels in [0, 1], and room for rounding


def check_outputs(outputs: dict[str, int]) -> None:
    """Refuse what cannot be the tasks of a model, see `FusionModel`."""
    if not isinstance(outputs, dict):
        raise TypeError(f"outputs is {outputs!r}; expected {{task: number of classes}}")
    fit = outputs and all(type(n) is int and n in range(2, 255) for n in outputs.values())
    expected = "at least one task, each with two classes or more, at most 254, as a whole number"
    checks.expect(fit, "outputs", outputs, expected)  # 255 marks pixels without a label
    # Modules are named by tasks, gates by two of them; a history has "val_total", "val_score".
    taken = {"", "total", "score", *dir(nn.ModuleDict())}
    expected = "a name such as 'semantic', without '.' and ' to ', and neither 'total', 'score',"
    expected += " 'miou_...' nor the name of a method or attribute"
    for task in outputs:
        free = isinstance(task, str) and task not in taken and not task.startswith("miou_")
        free = free and "." not in task and " to " not in task
        checks.expect(free, "a task of outputs", task, expected)


class FusionModel(nn.Module):
    """One shared encoder, one shared decoder, and a classifier for each task.

    With a single entry in `outputs` it is the single-task network that fusion is compared with.

    Args: outputs, {task: number of classes}, e.g. {"semantic": 8, "region": 3}; encoder, "small"
        (`ConvEncoder`) or one of `encoders.NAMES`; width, channels of the finest stage of the small
        encoder, and of the decoder; pretrained, start the encoder from ImageNet weights: "small"
        has none, those of "lite0" come inside a package, the others torchvision downloads; sharing,
        what stands between the shared features and the classifiers, one of `SHARING`;
        frozen_stages, how many stages of the encoder stay as they are, see `freeze`.
    Shape: images (N, 3, H, W) float in [0, 1], not normalised, N >= 1 and H, W >= 16 ->
        {task: logits (N, classes, H, W)}.
    Raises: ValueError, an argument is none of these: a task without a usable name, fewer than 2 or
        more than 254 classes, images of another shape or (looked at on the CPU alone) above 1;
        TypeError, outputs is no dictionary, or images are not float; OSError, no ImageNet weights.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        outputs: dict[str, int],
        encoder: str = "small",
        width: int = 16,
        pretrained: bool = False,
        sharing: str = "hard",
        frozen_stages: int = 0,
    ):
        super().__init__()
        check_outputs(outputs)
        whole = type(width) is int and width >= 1
        checks.expect(whole, "width", width, "a whole number of channels, 1 or more")
        checks.expect(sharing in [*SHARING], "sharing", sharing, f"one of: {', '.join(SHARING)}")
        self.config: dict[str, Any] = {"outputs": dict(outputs), "encoder": encoder}
        self.config |= {"width": width, "sharing": sharing}
        self.encoder = backbone(encoder, pretrained, width)
        self.decoder = SHARING[sharing].shared_decoder(self.encoder.channels, width)
        self.sharing = SHARING[sharing](list(outputs), width, self.encoder.channels)
        self.heads = nn.ModuleDict(
            {task: nn.Conv2d(width, classes, 3, padding=1) for task, classes in outputs.items()}
        )
        self.register_buffer("mean", torch.tensor(self.MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.STD).view(3, 1, 1), persistent=False)
        self.freeze(frozen_stages)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.sharing(self.features(images))
        return {
            task: resize(head(features[task]), images.shape[-2:])
            for task, head in self.heads.items()
        }

    def features(self, images: Tensor) -> Tensor:
        """Shared features, (N, width, H', W') of the finest map; with own decoders, all maps."""
        return self.decoder(self.encoder(self.normalised(images)))

    def normalised(self, images: Tensor) -> Tensor:
        """(images - mean) / standard deviation, those of ImageNet, after checks of the images."""
        if not images.is_floating_point():
            raise TypeError(f"images has dtype {images.dtype}; expected float in [0, 1]")
        fit = images.ndim == 4 and len(images) > 0 and images.shape[1] == 3
        fit = fit and min(images.shape[2:]) >= 16
        checks.shapes(fit, "(N, 3, H, W) with H, W >= 16 and N >= 1", images=images)
        if images.device.type == "cpu" and HIGHEST < (highest := images.max()) < float("inf"):
            found = f"images has values up to {highest:.4g}; expected float in [0, 1]"
            advice = "divide bytes by 255, and leave the normalisation to the model"
            raise ValueError(f"{found}: {advice}")
        return (images - self.mean) / self.std

    def freeze(self, stages: int) -> None:
        """Keep the encoder's first stages, the finest ones, as they are from now on; 0 frees all.
        Their parameters get no gradients, and their batch normalisation stays in evaluation mode,
        so that its running statistics do not move either. ValueError: there are not that many."""
        there = len(self.encoder.stages)
        expected = f"0 (none) to {there} (the whole encoder)"
        checks.expect(stages in range(there + 1), "frozen_stages", stages, expected)
        self.frozen_stages = stages
        for number, stage in enumerate(self.encoder.stages):
            stage.requires_grad_(number >= stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FusionModel":
        """Training mode, but for frozen stages, which stay in evaluation mode."""
        super().train(mode)
        for stage in list(self.encoder.stages)[: self.frozen_stages]:
            stage.eval()
        return self

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of encoder and decoder, which every task's loss trains."""
        shared = nn.ModuleList([self.encoder, self.decoder])
        return [p for p in shared.parameters() if p.requires_grad]


class TwoNetworks(nn.Module):
    """The article's model, made to work, the baseline of fusion: a whole network for each task.
    Takes the arguments of `FusionModel` and returns what it returns."""

    def __init__(self, outputs: dict[str, int], **options):
        super().__init__()
        check_outputs(outputs)
        self.networks = nn.ModuleDict(
            {task: FusionModel({task: classes}, **options) for task, classes in outputs.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: network(images)[task] for task, network in self.networks.items()}


def parameter_groups(model: nn.Module, learning_rate: float, encoder_factor: float = 1.0) -> list:
    """Groups for an optimizer: the encoder learns at `encoder_factor` times the rate of all else.

    Discriminative fine-tuning (Howard & Ruder 2018, section 3.1, there with one rate a layer).
    Frozen parameters are in no group, any other is in exactly one.

    Args: model, a `FusionModel` or `TwoNetworks`; with factor 1 any module, and one group.
    Returns: [{"params": [...], "lr": rate}, ...], decoder and heads first.
    Raises: ValueError, encoder_factor is not above 0, or not finite.
    """
    expected = "a number above 0 (freeze what shall not learn)"
    checks.expect(0 < encoder_factor < float("inf"), "encoder_factor", encoder_factor, expected)
    trained = [p for p in model.parameters() if p.requires_grad]
    if encoder_factor == 1:
        return [{"params": trained, "lr": learning_rate}]
    networks: Iterable = model.networks.values() if isinstance(model, TwoNetworks) else [model]
    encoder = {id(p) for network in networks for p in network.encoder.parameters()}
    others, own = ([p for p in trained if (id(p) in encoder) == inside] for inside in (False, True))
    groups = (others, learning_rate), (own, encoder_factor * learning_rate)
    return [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters]
