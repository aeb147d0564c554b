"""One shared encoder and decoder with a classifier for each task, and the two separate networks to
compare it with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_lib import backbones


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU. Shape: (N, C_in, H, W) -> (N, C_out, H/stride,
    W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ConvEncoder(backbones.StagedEncoder):
    """A small encoder trained from scratch: each stage halves the picture and (up to 8 x width)
    doubles the channels.

    Shape:
        images: (N, 3, H, W), normalised.
        returns: list of feature maps from fine to coarse, (N, channels[s], H / 2^s, W / 2^s).
    """

    def __init__(self, width: int):
        super().__init__()
        self.channels = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.stages = nn.ModuleList()
        before = 3
        for stage, channels in enumerate(self.channels):
            stride = 1 if stage == 0 else 2
            self.stages.append(
                nn.Sequential(ConvBlock(before, channels, stride), ConvBlock(channels, channels))
            )
            before = channels


class Decoder(nn.Module):
    """From coarse to fine: upsample, add the encoder's features of that size, convolve.

    The additions are the lateral connections of a feature pyramid network (Lin et al. 2017, figure
    3). The finest map, where boundaries are drawn, gets one more convolution, added to what it
    refines.

    Shape:
        features: list of (N, C_s, H_s, W_s), fine to coarse.
        returns: (N, width, H_0, W_0), at the finest feature map's size.
    """

    def __init__(self, channels: list[int], width: int):
        super().__init__()
        widths = [width] + [2 * width] * (len(channels) - 1)
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths))
        self.blocks = nn.ModuleList(
            ConvBlock(w, widths[max(stage - 1, 0)]) for stage, w in enumerate(widths)
        )
        self.refine = ConvBlock(width, width)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = None
        for stage in reversed(range(len(features))):
            here = self.lateral[stage](features[stage])
            if x is not None:
                here = here + _resize(x, here.shape[-2:])
            if stage == 0:
                here = here + self.refine(here)
            x = self.blocks[stage](here)
        return x


class AttentionMasks(nn.Module):
    """One soft mask for each task over the shared features: F_t = sigmoid(W_t * F) . F (after Liu
    et al. 2019, eq. 1-2).

    Shape:
        shared: F, (N, width, H, W).
        returns: {task: (N, width, H, W)}.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__()
        self.masks = nn.ModuleDict({task: nn.Conv2d(width, width, 1) for task in tasks})

    def open(self, shared: Tensor) -> dict[str, Tensor]:
        """How far each mask is open, in [0, 1]: {task: (N, width, H, W)}."""
        return {task: torch.sigmoid(mask(shared)) for task, mask in self.masks.items()}

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: mask * shared for task, mask in self.open(shared).items()}


class OwnBlocks(nn.Module):
    """Own features F_t = ConvBlock_t(F) for each task: the last layer before the classifier is no
    longer shared.

    Shape: as `AttentionMasks`.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__()
        self.own = nn.ModuleDict({task: ConvBlock(width, width) for task in tasks})

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: block(shared) for task, block in self.own.items()}


class CrossTaskGates(OwnBlocks):
    """Own features F_t for each task, and gates that let the other tasks' features in.

    G_t = F_t + sum_{o != t} sigmoid(W_to * [F_t, F_o]) . F_o, with F_t as `OwnBlocks` has it. Such
    gates are found in Gated-SCNN (Takikawa et al. 2019, eq. 1-2, from shape to shape stream) and
    PAD-Net (Xu et al. 2018, eq. 3).

    Shape: as `AttentionMasks`.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__(tasks, width)
        pairs = [(task, other) for task in tasks for other in tasks if other != task]
        self.gates = nn.ModuleDict(
            {f"{other} to {task}": nn.Conv2d(2 * width, width, 1) for task, other in pairs}
        )

    def open(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """How far each gate is open, in [0, 1]: {"region to semantic": (N, width, H, W), ...}."""
        opened = {}
        for name, gate in self.gates.items():
            other, task = name.split(" to ")
            opened[name] = torch.sigmoid(gate(torch.cat([own[task], own[other]], 1)))
        return opened

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        own = super().forward(shared)
        features = dict(own)
        for name, opened in self.open(own).items():
            other, task = name.split(" to ")
            features[task] = features[task] + opened * own[other]
        return features


class OwnDecoders(nn.Module):
    """A whole decoder for each task; only the encoder is shared.

    Shape:
        features: as `Decoder`.
        returns: {task: (N, width, H_0, W_0)}.
    """

    def __init__(self, tasks: list[str], channels: list[int], width: int):
        super().__init__()
        self.own = nn.ModuleDict({task: Decoder(channels, width) for task in tasks})

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {task: decoder(features) for task, decoder in self.own.items()}


SHARING = {"attention": AttentionMasks, "blocks": OwnBlocks, "gates": CrossTaskGates}


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
        if encoder not in ("small", *backbones.NAMES):
            raise ValueError(
                f"encoder is {encoder!r}; expected one of: small, {', '.join(backbones.NAMES)}"
            )
        if pretrained and encoder == "small":
            others = ", ".join(backbones.NAMES)
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
            ConvEncoder(width) if encoder == "small" else backbones.backbone(encoder, pretrained)
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


def _resize(x: Tensor, size) -> Tensor:
    return (
        x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
    )


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


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
