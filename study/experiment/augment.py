"""Random crops, flips and rotations of a whole batch, on its device, from one generator.

Every augmentation maps uint8 or float images (B, C, H, W) to images of the same shape and dtype. All are gathers of
pixels: nothing is interpolated, so uint8 stays exact.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def no_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Zero-pad 4, crop back at a random place, flip half of the images left to right."""
    B, _, H, W = images.shape
    padded = F.pad(images, (4,) * 4)
    rows, columns = _window(padded, B, H, W, generator)
    return _take_pixels(padded, rows, _flip_half(columns, generator))


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Zero-pad 4 and crop back at a random place, without a flip: for images that mean something else in a mirror."""
    B, _, H, W = images.shape
    padded = F.pad(images, (4,) * 4)
    return _take_pixels(padded, *_window(padded, B, H, W, generator))


def published_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
    """As the paper's released code: reflect-pad 4, zero-pad 4, crop 32, flip, rotate by up to 18 degrees (nearest)."""
    B, _, H, W = images.shape
    reflected = F.pad(images.float(), (4,) * 4, mode="reflect").to(images.dtype)  # torch reflects floats only
    padded = F.pad(reflected, (4,) * 4)
    rows, columns = _window(padded, B, H, W, generator)
    cropped = _take_pixels(padded, rows, _flip_half(columns, generator))
    degrees = (2 * _uniform(B, cropped, generator) - 1) * 18
    return rotate(cropped, degrees)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Each image counter-clockwise by its own angle about its centre; nearest pixel, zero outside. degrees: (B,)."""
    B, _, H, W = images.shape
    angle = (degrees * math.pi / 180).view(B, 1, 1)
    y = torch.arange(H, device=images.device).view(1, H, 1) - (H - 1) / 2
    x = torch.arange(W, device=images.device).view(1, 1, W) - (W - 1) / 2
    rows = (y * angle.cos() + x * angle.sin() + (H - 1) / 2).round().long()
    columns = (x * angle.cos() - y * angle.sin() + (W - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    pixels = _take_pixels(images, rows.clamp(0, H - 1), columns.clamp(0, W - 1))
    return pixels * inside.unsqueeze(1)


AUGMENTATIONS = {
    "crop-flip": crop_flip,
    "crop": crop,
    "published": published_augmentation,
    "none": no_augmentation,
}


def _window(padded: Tensor, B: int, H: int, W: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (B, H, 1) and columns (B, 1, W) of one random HxW window an image."""
    device = padded.device
    top = torch.randint(padded.shape[2] - H + 1, (B, 1, 1), generator=generator, device=device)
    left = torch.randint(padded.shape[3] - W + 1, (B, 1, 1), generator=generator, device=device)
    return top + torch.arange(H, device=device).view(1, H, 1), left + torch.arange(W, device=device).view(1, 1, W)


def _flip_half(columns: Tensor, generator: torch.Generator) -> Tensor:
    flips = _uniform(len(columns), columns, generator) < 0.5
    return torch.where(flips.view(-1, 1, 1), columns.flip(2), columns)


def _uniform(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=like.device)


def _take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """images[b, :, rows[b], columns[b]], where rows and columns broadcast to (B, H, W)."""
    B, C, _, W = images.shape
    place = rows * W + columns
    place = place.expand(B, *place.shape[1:])
    flat = place.flatten(1).unsqueeze(1).expand(B, C, -1)
    return images.flatten(2).gather(2, flat).view(B, C, *place.shape[1:])
