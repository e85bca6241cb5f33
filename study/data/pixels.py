"""Images as a network takes them."""

import torch
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) to float32 pixels in [0, 1], channels last in memory. Raises TypeError on another dtype."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: give uint8 from 0 to 255, which are divided by 255 here")
    return images.to(memory_format=torch.channels_last).float().div_(255)
