"""One shared encoder and decoder with a classifier for each task, and the two separate networks to
compare it with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lib.models import encoders
from fusion_lib.models.encoders import ConvEncoder
from fusion_lib.models.layers import Decoder, _resize
from fusion_lib.models.sharing import SHARING, OwnDecoders


class FusionModel(nn.Module):
    """One shared encoder, one shared decoder, and a classifier for each task (hard parameter
    sharing, Caruana 1997).

    With a single entry in `outputs` it is the single-task network that fusion is compared with.

    Args:
        outputs: {task: number of classes}, e.g. {"semantic": 8, "region": 3}.
        encoder: "small" (`ConvEncoder`), "lite0" (EfficientNet-Lite0), or one of torchvision's, see
            `backbones`.
        width: channels of the finest stage of the small encoder, and of the decoder.
        pretrained: start the encoder from ImageNet weights; "small" has none. Those of "lite0" come
            inside a package, the others torchvision downloads.
        sharing: what stands between the shared features and the classifiers: "hard" nothing,
            "attention" a mask for each task (`AttentionMasks`), "blocks" own features
            (`OwnBlocks`), "gates" those with `CrossTaskGates`. With "decoders", they are those of
            the encoder, and each task has a decoder of its own (`OwnDecoders`).
        frozen_stages: how many stages of the encoder stay as they are, see `freeze`.

    Shape:
        images: (N, 3, H, W) float in [0, 1]; normalisation happens inside. H and W may be any size
            of at least 16.
        returns: {task: logits (N, classes, H, W)}.

    Raises:
        ValueError: unknown encoder or sharing, no task, a task with fewer than two classes, more
            frozen stages than there are, or images of another shape.
        TypeError: images are not float.
        OSError: ImageNet weights cannot be downloaded.
    """

    MEAN, STD = (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )  # of ImageNet, as the pretrained weights expect

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
        if not outputs or min(outputs.values()) < 2:
            raise ValueError(
                f"outputs is {outputs}; expected at least one task, each with two classes or more"
            )
        if encoder not in ("small", *encoders.NAMES):
            raise ValueError(
                f"encoder is {encoder!r}; expected one of: small, {', '.join(encoders.NAMES)}"
            )
        if pretrained and encoder == "small":
            others = ", ".join(encoders.NAMES)
            raise ValueError(
                "pretrained is True, but encoder 'small' has no ImageNet weights; these have:"
                f" {others}"
            )
        if sharing not in ("hard", "decoders", *SHARING):
            raise ValueError(
                f"sharing is {sharing!r}; expected one of: hard, decoders, {', '.join(SHARING)}"
            )
        self.config = {
            "outputs": dict(outputs),
            "encoder": encoder,
            "width": width,
            "sharing": sharing,
        }
        self.encoder = (
            ConvEncoder(width) if encoder == "small" else encoders.backbone(encoder, pretrained)
        )
        if sharing == "decoders":
            self.decoder, self.sharing = (
                nn.Identity(),
                OwnDecoders(list(outputs), self.encoder.channels, width),
            )
        else:
            self.decoder = Decoder(self.encoder.channels, width)
            self.sharing = None if sharing == "hard" else SHARING[sharing](list(outputs), width)
        self.heads = nn.ModuleDict(
            {task: nn.Conv2d(width, classes, 3, padding=1) for task, classes in outputs.items()}
        )
        self.register_buffer("mean", torch.tensor(self.MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.STD).view(3, 1, 1), persistent=False)
        self.freeze(frozen_stages)

    def freeze(self, stages: int) -> None:
        """Keep the encoder's first stages, the finest ones, as they are from now on; 0 frees all.

        Their parameters get no gradients. Their batch normalisation stays in evaluation mode, also
        in training, so that its running statistics do not move either.

        Raises:
            ValueError: there are not that many stages.
        """
        there = len(self.encoder.stages)
        if stages not in range(there + 1):
            raise ValueError(
                f"frozen stages are {stages}; expected 0 (none) to {there} (the whole encoder)"
            )
        self.frozen_stages = stages
        for number, stage in enumerate(self.encoder.stages):
            stage.requires_grad_(number >= stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> FusionModel:
        """Training mode, but for frozen stages, which stay in evaluation mode."""
        super().train(mode)
        for stage in list(self.encoder.stages)[: self.frozen_stages]:
            stage.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """The shared features: (N, width, H', W') at the finest feature map's size, or all of the
        encoder's with own decoders."""
        if not images.is_floating_point():
            raise TypeError(f"images has dtype {images.dtype}; expected float in [0, 1]")
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 16:
            raise ValueError(
                f"images has shape {tuple(images.shape)}; expected (N, 3, H, W) with H, W >= 16"
            )
        return self.decoder(self.encoder((images - self.mean) / self.std))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        shared = self.features(images)
        features = (
            dict.fromkeys(self.heads, shared) if self.sharing is None else self.sharing(shared)
        )
        return {
            task: _resize(head(features[task]), images.shape[-2:])
            for task, head in self.heads.items()
        }

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of encoder and decoder, which every task's loss trains."""
        return [
            p for part in (self.encoder, self.decoder) for p in part.parameters() if p.requires_grad
        ]


class TwoNetworks(nn.Module):
    """The article's model, made to work: a whole network for each task, nothing shared. The
    baseline of fusion.

    Takes the arguments of `FusionModel` and returns what it returns.
    """

    def __init__(self, outputs: dict[str, int], **options):
        super().__init__()
        self.networks = nn.ModuleDict(
            {task: FusionModel({task: classes}, **options) for task, classes in outputs.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: network(images)[task] for task, network in self.networks.items()}


def parameter_groups(
    model: nn.Module, learning_rate: float, encoder_factor: float = 1.0
) -> list[dict]:
    """Groups for an optimizer: the encoder learns at `encoder_factor` times the rate of all else.

    Layers that come from ImageNet need less change than those that are new (discriminative
    fine-tuning, Howard & Ruder 2018, section 3.1, there with one rate a layer). Frozen parameters
    are in no group, any other is in exactly one.

    Args:
        model: a `FusionModel` or `TwoNetworks`; with factor 1, any module.
        learning_rate: of decoder and heads, the first group.
        encoder_factor: above 0.

    Returns:
        [{"params": [...], "lr": rate}, ...]; with factor 1 a single group, in the order of
        `model.parameters()`.

    Raises:
        ValueError: encoder_factor is not above 0, or not finite.
    """
    if not 0 < encoder_factor < float("inf"):
        raise ValueError(
            f"encoder_factor is {encoder_factor}; expected a number above 0 (freeze what shall not"
            " learn)"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    if encoder_factor == 1:
        return [{"params": trained, "lr": learning_rate}]
    networks = model.networks.values() if isinstance(model, TwoNetworks) else [model]
    encoder = {id(p) for network in networks for p in network.encoder.parameters()}
    groups = [
        {"params": [p for p in trained if id(p) not in encoder], "lr": learning_rate},
        {"params": [p for p in trained if id(p) in encoder], "lr": encoder_factor * learning_rate},
    ]
    return [group for group in groups if group["params"]]
