"""One encoder, several tasks: the fusion model, its parts, and the networks to compare it with."""

from fusion_lib.models.cost import count_parameters, time_step
from fusion_lib.models.encoders import ConvEncoder
from fusion_lib.models.fusion import FusionModel, TwoNetworks, parameter_groups
from fusion_lib.models.layers import ConvBlock, Decoder
from fusion_lib.models.sharing import SHARING, AttentionMasks, CrossTaskGates, HardSharing
