"""Connectors: the patches that a vision tower sees become tokens of the decoder.

All take patches (B, T, N, C) of T frames, N = side * side in rows, and return (B, n, H); parameters have
the names of the published checkpoints. `tokens(frames, side)` is n, known before anything is computed.

    stc_connector, stc_connector_v35, stp_connector, spatial_conv, spatial_pool    VideoLLaMA2 (arXiv 2406.07476)
    linear, mlp2x_gelu                                                             the same, on the frames' mean
    all_in_one, all_in_one_small                                                   HumanOmni (arXiv 2501.15111)
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from uacs.errors import BadInput


def video_connector(kind: str, width_in: int, width: int, side: int) -> nn.Module:
    """VideoLLaMA2's connector by its config's `mm_projector_type`; raises `BadInput` for one that it has not."""
    if kind not in VIDEO_CONNECTORS:
        raise BadInput(f"mm_projector_type '{kind}' is none of VideoLLaMA2's: {', '.join(VIDEO_CONNECTORS)}")
    connector = VIDEO_CONNECTORS[kind](width_in, width)
    if connector.tokens(2, side) < 1:
        raise BadInput(f"mm_projector_type '{kind}' cannot take pictures of {side} x {side} patches")
    return connector


def gated_connector(kind: str, width_in: int, width: int, side: int) -> "AllInOne":
    """HumanOmni's connector by its config's `mm_projector_type`; raises `BadInput` for one that it has not.

    Its branches meet only where both halve the picture alike: all_in_one needs an odd side, all_in_one_small
    an even one. (all_in_one_mlp stands in the original too, whose forward cannot add its branches.)
    """
    if kind not in ("all_in_one", "all_in_one_small"):
        raise BadInput(f"mm_projector_type '{kind}' is none of HumanOmni's: all_in_one, all_in_one_small")
    small = kind == "all_in_one_small"
    if (side % 2 == 0) != small:
        parity = "even" if small else "odd"
        raise BadInput(f"mm_projector_type '{kind}' takes an {parity} number of patches a side, not {side}")
    return AllInOne(width_in, width, depth=2 if small else 4, padding=0 if small else 1)


def mlp(kind: str, width_in: int, width: int) -> nn.Module:
    """`linear`, or `mlpNx_gelu`: N linear layers with GELU between; raises `BadInput` for anything else."""
    if kind == "linear":
        return nn.Linear(width_in, width)
    if not (found := re.fullmatch(r"mlp(\d+)x_gelu", kind)):
        raise BadInput(f"projector '{kind}' is neither linear nor mlpNx_gelu")
    layers: list[nn.Module] = [nn.Linear(width_in, width)]
    for _ in range(1, int(found[1])):
        layers += [nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


class MeanLinear(nn.Linear):
    """The mean frame's patches, each through one linear layer."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, T, N, C) to (B, N, H)."""
        return super().forward(patches.mean(1))

    def tokens(self, frames: int, side: int) -> int:
        """How many tokens a clip takes."""
        return side * side


class MeanMlp(nn.Sequential):
    """The mean frame's patches, each through two linear layers with GELU between."""

    def __init__(self, width_in: int, width: int):
        super().__init__(*mlp("mlp2x_gelu", width_in, width))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, T, N, C) to (B, N, H)."""
        return super().forward(patches.mean(1))

    tokens = MeanLinear.tokens


class StcConnector(nn.Module):
    """Spatial-temporal convolution: a RegStage, a strided sampler over T, h, w, another RegStage, an MLP.

    stride is the sampler's along (T, h, w); pooled takes the mean instead of a convolution; depth 0 leaves the
    stages out. Tokens lie in the order t, h, w.
    """

    def __init__(self, width_in: int, width: int, depth: int = 4, stride=(2, 2, 2), padding: int = 1, pooled=False):
        super().__init__()
        self.stride, self.padding = stride, 0 if pooled else padding
        halved = nn.AvgPool3d(stride) if pooled else nn.Conv3d(width, width, stride, stride, padding)
        self.s1 = reg_stage(depth, width_in, width)
        self.sampler = nn.Sequential(halved, nn.SiLU())
        self.s2 = reg_stage(depth, width, width)
        self.readout = mlp("mlp2x_gelu", width, width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, T, N, C) to (B, t h w, H)."""
        x = self.sampler(_over_frames(self.s1, _as_clips(patches)))
        return self.readout(_over_frames(self.s2, x).flatten(2).transpose(1, 2))

    def tokens(self, frames: int, side: int) -> int:
        """How many tokens a clip of so many frames takes."""
        t, h, w = ((n + 2 * self.padding - s) // s + 1 for n, s in zip((frames, side, side), self.stride, strict=True))
        return t * h * w


VIDEO_CONNECTORS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": MeanLinear,
    "mlp2x_gelu": MeanMlp,
    "stc_connector": StcConnector,
    "stc_connector_v35": partial(StcConnector, padding=0),
    "stp_connector": partial(StcConnector, pooled=True),
    "spatial_conv": partial(StcConnector, depth=0, stride=(1, 2, 2)),
    "spatial_pool": partial(StcConnector, depth=0, stride=(1, 2, 2), pooled=True),
}


class AllInOne(nn.Module):
    """HumanOmni's three branches over the same frames, mixed by the gate, then read fast and slow.

    Video and body each are a RegStage, a sampler that halves pictures and keeps time, and another RegStage;
    face is an MLP a patch, resized to the same grid. Fast: every frame in 2 x 2 means; slow: frames 1, 5, 9, ...
    whole (frame 0 of a clip of one). All fast tokens come first.
    """

    def __init__(self, width_in: int, width: int, depth: int, padding: int):
        super().__init__()
        self.padding = padding
        for branch in ("video", "body"):
            halved = nn.Conv3d(width, width, (2, 2, 2), (1, 2, 2), (1, padding, padding))
            self.add_module(f"s1_{branch}", reg_stage(depth, width_in, width))
            self.add_module(f"sampler_{branch}", nn.Sequential(halved, nn.SiLU()))
            self.add_module(f"s2_{branch}", reg_stage(depth, width, width))
            self.add_module(f"readout_{branch}", mlp("mlp2x_gelu", width, width))
        self.mlp_2xgelu_face = mlp("mlp2x_gelu", width_in, width)

    def forward(self, patches: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """(B, T, N, C) and the gate's shares (B, 3) of video, body and face to (B, n, H)."""
        branches = (self._convolved(patches, "video"), self._convolved(patches, "body"), self._face(patches))
        mixed = sum(
            shares[:, k, None, None, None, None] * branch for k, branch in enumerate(branches)
        )  # (B, T, H, h, w)
        fast = avg_pool2d(mixed.flatten(0, 1), 2).unflatten(0, mixed.shape[:2])
        slow = mixed[:, slow_frames(mixed.shape[1])]
        return torch.cat([view.flatten(3).transpose(2, 3).flatten(1, 2) for view in (fast, slow)], dim=1)

    def tokens(self, frames: int, side: int) -> int:
        """How many tokens a clip of so many frames takes."""
        halved = (side + 1) // 2
        return frames * (halved // 2) ** 2 + len(slow_frames(frames)) * halved**2

    def _convolved(self, patches: torch.Tensor, branch: str) -> torch.Tensor:
        stage = {name: self.get_submodule(f"{name}_{branch}") for name in ("s1", "sampler", "s2", "readout")}
        x = stage["sampler"](_over_frames(stage["s1"], _as_clips(patches)))[:, :, :-1]  # padding in time adds one
        x = _over_frames(stage["s2"], x).permute(0, 2, 3, 4, 1)  # (B, T, h, w, H)
        return stage["readout"](x).permute(0, 1, 4, 2, 3)

    def _face(self, patches: torch.Tensor) -> torch.Tensor:
        pictures = _as_clips(self.mlp_2xgelu_face(patches)).transpose(1, 2)  # (B, T, H, side, side)
        half = (pictures.shape[-1] + 1) // 2
        return interpolate(pictures.flatten(0, 1), (half, half), mode="bilinear").unflatten(0, pictures.shape[:2])


def slow_frames(frames: int) -> list[int]:
    """The frames that HumanOmni reads patch by patch.

    >>> slow_frames(8), slow_frames(1)
    ([1, 5], [0])
    """
    return list(range(1, frames, 4)) or [0]


def reg_stage(depth: int, width_in: int, width: int) -> nn.Module:
    """A stage of RegNet-Y (arXiv 2003.13678) as timm builds it for these models; depth 0 changes nothing.

    (B, C, h, w) to (B, H, h, w): group width 1, squeeze ratio 1/4 of the block's input, LayerNorm over channels.
    """
    if not depth:
        return nn.Identity()
    blocks = ((f"b{k + 1}", _Bottleneck(width if k else width_in, width)) for k in range(depth))
    return nn.Sequential(OrderedDict(blocks))


class _Bottleneck(nn.Module):
    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.conv1 = _ConvNorm(width_in, width, 1)
        self.conv2 = _ConvNorm(width, width, 3, groups=width)
        self.se = _SqueezeExcite(width, round(width_in / 4))
        self.conv3 = _ConvNorm(width, width, 1)
        if width_in != width:
            self.downsample = _ConvNorm(width_in, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = silu(self.conv2(silu(self.conv1(x))))
        return silu(self.conv3(self.se(x)) + shortcut)


class _ConvNorm(nn.Module):
    def __init__(self, width_in: int, width: int, kernel: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.LayerNorm(width, eps=1e-5)  # the published names say bn, and mean this

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.fc2(silu(self.fc1(x.mean((2, 3), keepdim=True)))))


def _as_clips(patches: torch.Tensor) -> torch.Tensor:
    """(B, T, side * side, C) to (B, C, T, side, side)."""
    side = int(patches.shape[2] ** 0.5)
    return patches.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)


def _over_frames(stage: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """A stage of pictures over (B, C, T, h, w), a frame at a time."""
    frames = stage(clips.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (len(clips), -1)).transpose(1, 2)
