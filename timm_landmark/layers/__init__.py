"""Layers that are not in timm: the channel attention unit and its paths."""

from timm_landmark.layers.attention_path import PATHS, channel_attention_macs, choose_path, force_path
from timm_landmark.layers.channel_attention import (
    ChannelAttention2d,
    attention_scale,
    channel_attention_reference,
)

__all__ = [
    "PATHS",
    "ChannelAttention2d",
    "attention_scale",
    "channel_attention_macs",
    "channel_attention_reference",
    "choose_path",
    "force_path",
]
