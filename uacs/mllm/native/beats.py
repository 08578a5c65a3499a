"""BEATs (arXiv 2212.09058), the audio tower of VideoLLaMA2.1-AV, for inference and fine-tuning.

Log-mel frames are cut into patches of 16 x 16, and a transformer of 12 layers looks at all of them. What
is unusual in it: residuals are scaled (deep norm) and normed afterwards; a convolution tells positions; and
attention knows distances by a table that layer 0 holds for all, gated anew by every layer's queries.
Parameters have the published names.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import nn
from torch.nn.functional import conv1d, gelu, scaled_dot_product_attention

PATCH = 16
FBANK_MEAN, FBANK_SD = 15.41663, 6.55582  # of AudioSet's log-mel frames, which BEATs was trained on


@dataclass(frozen=True)
class BeatsConfig:
    """The published model's sizes; names are those of its own checkpoint's `cfg`."""

    embed_dim: int = 512
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800

    @classmethod
    def of(cls, values: Mapping, shapes: Mapping[str, torch.Size]) -> "BeatsConfig":
        """What the weights' shapes say goes over `values`, as far as shapes say it; names in `shapes` are BEATs'."""
        known = {f.name: values[f.name] for f in fields(cls) if isinstance(values.get(f.name), int)}
        return cls(**(known | _read_from(shapes)))


def _read_from(shapes: Mapping[str, torch.Size]) -> dict[str, int]:
    """Sizes by name; what the shapes do not have is left out, for whoever misses a weight to say so."""

    def size(name: str, at: int) -> int | None:
        shape = shapes.get(name, ())
        return shape[at] if len(shape) > at else None

    conv, table = "encoder.pos_conv.0.weight_v", "encoder.layers.0.self_attn.relative_attention_bias.weight"
    layers = {int(found[1]) for name in shapes if (found := re.match(r"encoder\.layers\.(\d+)\.", name))}
    width, per_group = size(conv, 0), size(conv, 1)
    said = {
        "embed_dim": size("patch_embedding.weight", 0),
        "encoder_embed_dim": width,
        "conv_pos": size(conv, 2),
        "conv_pos_groups": width // per_group if width and per_group else None,
        "encoder_layers": max(layers) + 1 if layers else None,
        "encoder_ffn_embed_dim": size("encoder.layers.0.fc1.weight", 0),
        "num_buckets": size(table, 0),
        "encoder_attention_heads": size(table, 1),
    }
    return {name: value for name, value in said.items() if value}


class Beats(nn.Module):
    """fbank (B, frames, mels) to features (B, frames // 16 * mels // 16, width), in time order."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, PATCH, PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        if config.embed_dim != config.encoder_embed_dim:
            self.post_extract_proj = nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.encoder = _Encoder(config)

    def forward(self, fbank: torch.Tensor) -> torch.Tensor:
        """Features of every patch; a rest of less than 16 frames is not heard."""
        x = self.patch_embedding(((fbank - FBANK_MEAN) / (2 * FBANK_SD)).unsqueeze(1))
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        return self.encoder(self.post_extract_proj(x) if hasattr(self, "post_extract_proj") else x)

    @staticmethod
    def tokens(frames: int, mels: int) -> int:
        """How many patches a sound takes."""
        return (frames // PATCH) * (mels // PATCH)


class _Encoder(nn.Module):
    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        self.pos_conv = nn.ModuleList([_PositionConv(config)])
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.encoder_layers)])
        table = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        self.layers[0].self_attn.relative_attention_bias = table
        for layer in self.layers:
            layer.begin(gain=(8 * config.encoder_layers) ** -0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer_norm(x + gelu(self.pos_conv[0](x.transpose(1, 2))).transpose(1, 2))
        buckets = distance_buckets(x.shape[1], self.config.num_buckets, self.config.max_distance, x.device)
        bias = self.layers[0].self_attn.relative_attention_bias(buckets).permute(2, 0, 1)  # (heads, L, L)
        for layer in self.layers:
            x = layer(x, bias)
        return x


class _PositionConv(nn.Module):
    """A grouped convolution whose weight is g v / |v|, the norm taken over all but the kernel's place."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        width, self.groups, self.kernel = config.encoder_embed_dim, config.conv_pos_groups, config.conv_pos
        # as the original draws it; PyTorch's own weight_norm has no epsilon in the root
        v = torch.empty(width, width // self.groups, self.kernel).normal_(0, math.sqrt(4 / (self.kernel * width)))
        self.weight_v = nn.Parameter(v)
        self.weight_g = nn.Parameter(v.norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.weight_v.float()
        v = v * torch.rsqrt(v.square().sum((0, 1), keepdim=True) + 1e-6)
        weight = self.weight_g * v.to(self.weight_v.dtype)
        x = conv1d(x, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return x[..., :-1] if self.kernel % 2 == 0 else x


class _Layer(nn.Module):
    def __init__(self, config: BeatsConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.residual = (2 * config.encoder_layers) ** 0.25
        self.self_attn = _Attention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def begin(self, gain: float) -> None:
        """Deep norm's start (arXiv 2203.00555): what adds to the residual begins smaller. It matters from scratch."""
        attention = self.self_attn
        for linear in (attention.q_proj, attention.k_proj):
            nn.init.xavier_normal_(linear.weight)
        for linear in (attention.v_proj, attention.out_proj, self.fc1, self.fc2):
            nn.init.xavier_normal_(linear.weight, gain)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.self_attn_layer_norm(self.residual * x + self.self_attn(x, bias))
        return self.final_layer_norm(self.residual * x + self.fc2(gelu(self.fc1(x))))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x (B, L, C), bias (heads, L, L) of the distances."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, L, C / heads)
        a, b = torch.sigmoid(self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1)).unsqueeze(-1).unbind(-2)
        gated = (a * (b * self.grep_a - 1) + 2) * bias
        return self.out_proj(scaled_dot_product_attention(q, k, v, gated).transpose(1, 2).flatten(2))


@lru_cache(maxsize=2)  # half a second for the published length, and always the same
def distance_buckets(length: int, buckets: int, max_distance: int, device: torch.device) -> torch.Tensor:
    """T5's relative positions (arXiv 1910.10683) in both directions: a bucket (L, L) for each pair of places.

    Half of the buckets are for what lies behind; of each half, one half counts single steps, the other
    grows by logarithm up to max_distance.
    """
    place = torch.arange(length)
    apart = place[None, :] - place[:, None]
    half, exact = buckets // 2, buckets // 4
    far = torch.log(apart.abs().float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + far.clamp(min=0).long()).clamp(max=half - 1)
    return ((apart > 0) * half + torch.where(apart.abs() < exact, apart.abs(), far)).to(device)
