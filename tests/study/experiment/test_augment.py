"""Claims about augmentation: what comes out is a window of the padded image or its mirror, turned by a known angle."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from torchvision.transforms import InterpolationMode

from study.experiment import augment

SIZE = 8
PLACES = torch.arange(1, SIZE * SIZE + 1, dtype=torch.uint8).view(
    1, 1, SIZE, SIZE
)  # every pixel has a value of its own


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(padded: np.ndarray) -> dict[bytes, tuple]:
    """Every SIZE x SIZE window of a padded image, and its mirror -> (top, left, flipped)."""
    found = {}
    for top in range(len(padded) - SIZE + 1):
        for left in range(padded.shape[1] - SIZE + 1):
            window = padded[top : top + SIZE, left : left + SIZE]
            found[window.tobytes()] = (top, left, False)
            found[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left, True)
    return found


def draws(images: torch.Tensor, padded: np.ndarray) -> list[tuple]:
    """(top, left, flipped) of each image's first channel; a KeyError if one is no window at all."""
    known = windows(padded)
    return [known[image[0].numpy().tobytes()] for image in images]


def test_crop_flip_gives_windows_of_the_zero_padded_image_at_every_place_and_both_ways():
    images = augment.crop_flip(PLACES.repeat(2000, 1, 1, 1), generator())
    seen = draws(images, np.pad(PLACES[0, 0].numpy(), 4))
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert len({(top, left) for top, left, _ in seen}) == 81  # rows and columns are drawn independently
    assert 900 < sum(flipped for _, _, flipped in seen) < 1100


def test_the_published_crop_is_of_the_image_reflected_by_4_then_zero_padded_by_4(monkeypatch):
    asked = []
    monkeypatch.setattr(augment, "rotate", lambda images, degrees: (asked.append(degrees), images)[1])
    images = augment.published_augmentation(PLACES.repeat(12_000, 1, 1, 1), generator())
    possible = windows(np.pad(np.pad(PLACES[0, 0].numpy(), 4, mode="reflect"), 4))
    assert {image[0].numpy().tobytes() for image in images} == set(possible)  # all 17 x 17 windows and their mirrors
    (degrees,) = asked
    assert degrees.shape == (12_000,)
    assert -18 <= degrees.min() < -17.5 and 17.5 < degrees.max() <= 18 and abs(degrees.mean()) < 1


def test_the_published_augmentation_is_its_crop_turned_by_its_angles(monkeypatch):
    images = torch.randint(0, 256, (6, 3, SIZE, SIZE), generator=generator(1), dtype=torch.uint8)
    turned = augment.published_augmentation(images, generator())
    seen = []
    monkeypatch.setattr(augment, "rotate", lambda cropped, degrees: (seen.append((cropped, degrees)), cropped)[1])
    augment.published_augmentation(images, generator())
    ((cropped, degrees),) = seen
    for image, angle, result in zip(cropped, degrees, turned, strict=True):
        assert torch.equal(result, reference.rotate(image, float(angle)))


@pytest.mark.parametrize("size", [8, 15, 32])
@pytest.mark.parametrize("degrees", [-18.0, -7.3, -0.4, 0.0, 3.1, 12.5, 18.0, 90.0])
def test_rotation_is_torchvisions_nearest_rotation(size, degrees):
    images = torch.randint(0, 256, (4, 3, size, size), generator=generator(2), dtype=torch.uint8)
    mine = augment.rotate(images, torch.full((4,), degrees))
    theirs = reference.rotate(images, degrees, interpolation=InterpolationMode.NEAREST, fill=0)
    different = (mine != theirs).any(dim=1).float().mean()
    assert different <= 0.01, f"{different:.1%} of the pixels"  # a few may lie between two pixels to the last bit


def test_rotation_turns_counter_clockwise_about_the_centre():
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(1, 1, 2, 2)
    assert augment.rotate(image, torch.tensor([90.0])).view(2, 2).tolist() == [[2, 4], [1, 3]]


def test_each_image_is_turned_by_its_own_angle():
    images = torch.randint(0, 256, (3, 1, 9, 9), generator=generator(3), dtype=torch.uint8)
    degrees = torch.tensor([-18.0, 0.0, 18.0])
    together = augment.rotate(images, degrees)
    for k in range(3):
        assert torch.equal(together[k], augment.rotate(images[k : k + 1], degrees[k : k + 1])[0])
    assert torch.equal(together[1], images[1])
    assert not torch.equal(together[0], images[0])


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
class TestEveryAugmentation:
    def test_keeps_shape_type_and_its_input(self, name):
        images = torch.randint(0, 256, (5, 3, SIZE, SIZE), generator=generator(4), dtype=torch.uint8)
        before = images.clone()
        result = augment.AUGMENTATIONS[name](images, generator())
        assert result.shape == images.shape and result.dtype == torch.uint8
        assert torch.equal(images, before)

    def test_only_moves_pixels_so_integers_stay_exact(self, name):
        images = torch.randint(1, 256, (5, 3, SIZE, SIZE), generator=generator(5), dtype=torch.uint8)
        exact = augment.AUGMENTATIONS[name](images, generator(6))
        as_floats = augment.AUGMENTATIONS[name](images.float(), generator(6))
        assert torch.equal(exact.float(), as_floats)
        for before, after in zip(images, exact, strict=True):
            assert set(after.unique().tolist()) <= set(before.unique().tolist()) | {0}

    def test_moves_all_channels_together(self, name):
        grey = torch.randint(0, 256, (5, 1, SIZE, SIZE), generator=generator(7), dtype=torch.uint8).repeat(1, 3, 1, 1)
        result = augment.AUGMENTATIONS[name](grey, generator())
        assert torch.equal(result, result[:, :1].repeat(1, 3, 1, 1))

    def test_gives_the_same_images_from_the_same_generator_and_touches_no_other(self, name):
        images = torch.randint(0, 256, (16, 3, SIZE, SIZE), generator=generator(8), dtype=torch.uint8)
        torch.manual_seed(1)
        untouched = torch.get_rng_state()
        first = augment.AUGMENTATIONS[name](images, generator(9))
        assert torch.equal(torch.get_rng_state(), untouched)
        torch.manual_seed(2)
        assert torch.equal(augment.AUGMENTATIONS[name](images, generator(9)), first)
        if name != "none":
            assert not torch.equal(augment.AUGMENTATIONS[name](images, generator(10)), first)

    def test_draws_anew_for_every_image(self, name):
        results = augment.AUGMENTATIONS[name](PLACES.repeat(50, 1, 1, 1), generator())
        distinct = len(results.flatten(1).unique(dim=0))
        assert distinct == 1 if name == "none" else distinct > 25


def test_a_crop_gives_windows_of_the_zero_padded_image_at_every_place_and_never_a_mirror_image():
    images = augment.crop(PLACES.repeat(2000, 1, 1, 1), generator())
    seen = draws(images, np.pad(PLACES[0, 0].numpy(), 4))
    assert {(top, left) for top, left, _ in seen} == {(top, left) for top in range(9) for left in range(9)}
    assert not any(flipped for _, _, flipped in seen)


def test_no_augmentation_is_none():
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    assert torch.equal(augment.no_augmentation(images, generator()), images)
