"""Backbones, heads and BatchNorm variants."""
