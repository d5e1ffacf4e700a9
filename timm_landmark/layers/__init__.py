"""Layers that timm does not have."""

from timm_landmark.layers.channel_attention import ChannelAttention2d, channel_attention_reference

__all__ = ["ChannelAttention2d", "channel_attention_reference"]
