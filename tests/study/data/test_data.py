"""study.data: every dataset from a small archive in its original format, every bad input with its error and remedy."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import http.server
import io
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from study.data import (
    DATASETS,
    Dataset,
    check_name,
    checksum,
    cifar,
    digits,
    download,
    is_here,
    jpeg,
    load,
    places,
    svhn,
)
from study.data.archive import Archive, obtain
from study.data.dataset import channel_statistics
from study.data.source import load_source


@pytest.fixture
def default_places():
    """Asked for by the tests that use the project's own data and cache folders."""


@pytest.fixture(autouse=True)
def isolated(request, monkeypatch, tmp_path):
    """No other test sees this machine's archives, caches or mirrors."""
    if "default_places" in request.fixturenames:
        return
    monkeypatch.setattr(places, "checkout", lambda: tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADVLIB_DATA", raising=False)
    monkeypatch.delenv("ADVLIB_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")  # the servers below listen on this machine


def pixels(count, seed=0, size=32):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def archive_of(content: bytes, filename: str, urls=()) -> Archive:
    return Archive(filename, len(content), hashlib.sha256(content).hexdigest(), tuple(urls))


def source_of(source, contents: dict[str, bytes], urls=()):
    """The published dataset's source with small archives in place of the real ones."""
    archives = tuple(archive_of(content, name, [f"{url}/{name}" for url in urls]) for name, content in contents.items())
    return dataclasses.replace(source, archives=archives)


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def load_from(folder: Path, source, download=False) -> Dataset:
    """The source's data, whose archives are in that folder, or come there."""
    with mock.patch.dict(os.environ, {"ADVLIB_DATA": str(folder)}):
        return load_source(source, download=download)


def tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def cifar_members(layout, num_classes, per_batch=4):
    """Files of a small archive in CIFAR's format, and the images and labels they hold: (train), (test)."""
    members, splits = {}, []
    for names in (layout.train, layout.test):
        images = pixels(per_batch * len(names), seed=len(splits))
        labels = [(7 * place + 3) % num_classes for place in range(len(images))]
        for number, name in enumerate(names):
            rows = slice(number * per_batch, (number + 1) * per_batch)
            batch = {"data": images[rows].reshape(per_batch, -1), layout.labels_key: labels[rows]}
            members[f"{layout.folder}/{name}"] = pickle.dumps(batch, protocol=2)
        splits.append((images, np.array(labels)))
    names = [f"class {number}" for number in range(num_classes)]
    members[f"{layout.folder}/{layout.meta}"] = pickle.dumps({layout.names_key: names}, protocol=2)
    return members, *splits


def tiny_cifar10():
    members, train, test = cifar_members(cifar.CIFAR10_LAYOUT, 10)
    return {"cifar-10-python.tar.gz": tar_gz(members)}, train, test


def jpeg_bytes(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def jpeg_members(train=12, test=5):
    """A small archive of JPEG files, class by class as the real one, and the JPEG bytes and labels in index order."""
    members, splits = {}, []
    for split, count in (("train", train), ("test", test)):
        files = [jpeg_bytes(image) for image in pixels(count, seed=count)]
        labels = [(3 * index + 1) % 10 for index in range(count)]
        for index in sorted(range(count), key=lambda index: labels[index]):
            members[f"{split}/{jpeg.CLASSES[labels[index]]}/{index:05d}.jpg"] = files[index]
        splits.append((files, labels))
    return members, *splits


# --- names -----------------------------------------------------------------------------------------------------------


def test_an_unknown_dataset_is_refused_with_the_known_names_and_the_nearest_one():
    with pytest.raises(ValueError, match="unknown dataset 'cifr10'. Did you mean 'cifar10'") as caught:
        load("cifr10")
    assert all(name in str(caught.value) for name in DATASETS)


@pytest.mark.parametrize("name", ["folder", "folder:", "cifar10-jpeg:"])
def test_a_name_that_lacks_its_path_says_how_to_write_one(name):
    with pytest.raises(ValueError, match="path.*write .*:PATH"):
        load(name)


@pytest.mark.parametrize("name", [None, 10, Path("digits")])
def test_a_name_that_is_no_string_is_a_type_error(name):
    with pytest.raises(TypeError, match="must be a string"):
        load(name)


def test_a_path_may_hold_colons_and_plain_names_take_no_path():
    assert check_name("folder:c:/photos") == ("folder", "c:/photos")
    with pytest.raises(ValueError, match="unknown dataset"):
        check_name("svhn:elsewhere")


def test_checking_a_name_imports_neither_torch_nor_a_decoder():
    heavy = ("torch", "torchvision", "sklearn", "scipy", "PIL", "tqdm")
    code = f"import sys, study.data; study.data.check_name('svhn'); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- Dataset ---------------------------------------------------------------------------------------------------------


def dataset(train=6, test=4, **changes):
    fields = {
        "name": "made", "title": "made", "classes": ("a", "b"), "mean": (0.5,) * 3, "std": (0.2,) * 3,
        "train_images": torch.from_numpy(pixels(train)), "train_labels": torch.arange(train) % 2,
        "test_images": torch.from_numpy(pixels(test)), "test_labels": torch.arange(test) % 2,
        "checksum": "sha256:0",
    }  # fmt: skip
    return Dataset(**fields | changes)


def test_a_subset_is_the_first_images_in_canonical_order_and_zero_takes_all():
    whole = dataset()
    part = whole.subset(3, 0)
    assert torch.equal(part.train_images, whole.train_images[:3])
    assert torch.equal(part.train_labels, whole.train_labels[:3])
    assert torch.equal(part.test_images, whole.test_images)
    assert len(whole.train_labels) == 6


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((7, 0), ValueError, "train_size is 7, but dataset 'made' has 6"),
        ((0, 5), ValueError, "test_size is 5, but dataset 'made' has 4"),
        ((-1, 0), ValueError, "train_size is -1"),
        ((2.0, 0), TypeError, "train_size must be an integer, not 2.0"),
        ((0, True), TypeError, "test_size must be an integer, not True"),
    ],
)
def test_an_impossible_subset_is_refused_with_the_size_there_is(sizes, error, message):
    with pytest.raises(error, match=message):
        dataset().subset(*sizes)


def test_moving_a_dataset_moves_its_four_tensors_and_nothing_else():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    whole = dataset()
    moved = whole.to(device)
    for field in dataclasses.fields(Dataset):
        before, after = getattr(whole, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert after.device.type == device
            assert torch.equal(before, after.cpu())
        else:
            assert before == after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(6, 3, 8, 8)}, "must be uint8"),
        ({"train_images": torch.zeros(6, 8, 8, dtype=torch.uint8)}, "must be uint8"),
        ({"test_labels": torch.zeros(4)}, "int64 labels"),
        ({"test_labels": torch.zeros(3, dtype=torch.int64)}, "4 images need as many"),
        ({"train_labels": torch.tensor([0, 1, 2, 0, 1, 0])}, "labels go from 0 to 2, but 2 classes allow 0 to 1"),
        ({"train_labels": torch.tensor([0, 1, -1, 0, 1, 0])}, "labels go from -1 to 1"),
        ({"test_images": torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "test_labels": torch.zeros(0).long()}, "none"),
    ],
)
def test_tensors_that_training_would_misread_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(**changes)


def test_channel_statistics_are_those_of_numpy_in_float64_to_four_decimals():
    images = pixels(5) // np.array([1, 2, 3], dtype=np.uint8)[:, None, None]
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), abs=5.1e-5)
    assert std == pytest.approx(scaled.std((0, 2, 3)), abs=5.1e-5)
    assert all(value == round(value, 4) for value in mean + std)


def test_a_constant_channel_gets_a_standard_deviation_that_can_divide():
    assert channel_statistics(np.full((2, 1, 4, 4), 51, dtype=np.uint8)) == ((0.2,), (1.0,))


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_1797_grey_images_of_16_pixels_with_a_balanced_test_set():
    data = load("digits", download=False)
    assert data.train_images.shape == (1497, 3, 16, 16)
    assert data.test_images.shape == (300, 3, 16, 16)
    assert data.test_labels.bincount().tolist() == [30] * 10
    for images in (data.train_images, data.test_images):
        assert torch.equal(images[:, 0], images[:, 1])
        assert torch.equal(images[:, 0], images[:, 2])


def test_digits_are_doubled_by_bilinear_interpolation_as_torch_does_it():
    scans = np.random.default_rng(0).integers(0, 17, (20, 8, 8)).astype(np.float64)
    ours = torch.from_numpy(digits.double(scans)).double()
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(scans)[:, None] * 255 / 16, scale_factor=2, mode="bilinear", align_corners=False
    )[:, 0]
    assert (ours - theirs).abs().max() <= 0.5 + 1e-9


def test_the_split_of_the_digits_uses_every_scan_once():
    from sklearn.datasets import load_digits

    labels = load_digits().target
    train, test = digits.split(labels)
    assert sorted([*train, *test]) == list(range(1797))
    assert not np.array_equal(test, np.sort(test))  # shuffled: the first n are a sample


def test_digits_are_the_same_on_every_machine():
    expected = "sha256:08c0dfa596fbfd08d5eceb5ca557ae7cd1468ace219f97cc5ea3cda4f65b2947"
    assert load("digits").checksum == expected


# --- the original formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "layout", "num_classes"),
    [(cifar.CIFAR10, cifar.CIFAR10_LAYOUT, 10), (cifar.CIFAR100, cifar.CIFAR100_LAYOUT, 100)],
    ids=["cifar10", "cifar100"],
)
def test_cifar_archives_are_read_as_torchvision_reads_them(tmp_path, source, layout, num_classes):
    datasets = pytest.importorskip("torchvision.datasets")
    members, train, test = cifar_members(layout, num_classes)
    contents = {source.archives[0].filename: tar_gz(members)}
    data = load_from(put(tmp_path / "archives", contents), source_of(source, contents), download=False)

    def listed(names):
        return [[name, hashlib.md5(members[f"{layout.folder}/{name}"]).hexdigest()] for name in names]

    original = datasets.CIFAR10 if num_classes == 10 else datasets.CIFAR100
    (meta,) = listed([layout.meta])
    attributes = {
        "train_list": listed(layout.train),
        "test_list": listed(layout.test),
        "meta": original.meta | {"md5": meta[1]},
    }
    reader = type("Tiny", (original,), attributes)
    for name, content in members.items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for is_train, images, labels, made in (
        (True, data.train_images, data.train_labels, train),
        (False, data.test_images, data.test_labels, test),
    ):
        theirs = reader(tmp_path / "unpacked", train=is_train)
        assert np.array_equal(images.numpy(), theirs.data.transpose(0, 3, 1, 2))
        assert labels.tolist() == theirs.targets
        assert np.array_equal(images.numpy(), made[0])
        assert np.array_equal(labels.numpy(), made[1])
    assert list(data.classes) == theirs.classes


def test_addresses_and_file_names_agree_with_torchvision():
    datasets = pytest.importorskip("torchvision.datasets")
    for ours, theirs in ((cifar.CIFAR10, datasets.CIFAR10), (cifar.CIFAR100, datasets.CIFAR100)):
        assert (ours.archives[0].urls[0], ours.archives[0].filename) == (theirs.url, theirs.filename)
    for ours, split in zip(svhn.SVHN.archives, ("train", "test"), strict=True):
        assert [ours.urls[0], ours.filename] == datasets.SVHN.split_list[split][:2]


def test_cifar10_is_standardised_by_the_papers_constants_and_cifar100_by_its_own_training_images(tmp_path):
    contents, *_ = tiny_cifar10()
    data = load_from(put(tmp_path / "a", contents), source_of(cifar.CIFAR10, contents), download=False)
    assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    members, (images, _), _ = cifar_members(cifar.CIFAR100_LAYOUT, 100)
    contents = {"cifar-100-python.tar.gz": tar_gz(members)}
    data = load_from(put(tmp_path / "b", contents), source_of(cifar.CIFAR100, contents), download=False)
    assert data.mean == pytest.approx((images / 255).mean((0, 2, 3)), abs=1e-4)


def test_a_cifar_archive_without_a_batch_names_it(tmp_path):
    members, *_ = cifar_members(cifar.CIFAR10_LAYOUT, 10)
    del members["cifar-10-batches-py/data_batch_3"]
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(tar_gz(members))
    with pytest.raises(ValueError, match="lacks data_batch_3"):
        cifar.read((path,), layout=cifar.CIFAR10_LAYOUT)


def mat_bytes(images, labels):
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"X": images, "y": np.array(labels, dtype=np.uint8)[:, None]})
    return buffer.getvalue()


def test_svhn_files_are_read_with_label_ten_as_the_digit_zero(tmp_path):
    rng = np.random.default_rng(1)
    train, test = (rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8) for count in (6, 3))
    contents = {
        "train_32x32.mat": mat_bytes(train, [10, 1, 2, 9, 10, 5]),
        "test_32x32.mat": mat_bytes(test, [3, 10, 8]),
    }
    source = source_of(svhn.SVHN, contents)
    data = load_from(put(tmp_path / "archives", contents), source, download=False)
    assert data.train_labels.tolist() == [0, 1, 2, 9, 0, 5]
    assert data.test_labels.tolist() == [3, 0, 8]
    for place in range(3):
        assert np.array_equal(data.test_images[place].numpy().transpose(1, 2, 0), test[..., place])
    assert data.train_images.shape == (6, 3, 32, 32)
    assert data.classes == tuple("0123456789")


def test_the_checksum_of_two_files_changes_with_either(tmp_path):
    contents = {"a.mat": b"a", "b.mat": b"b"}
    checksums = {source_of(svhn.SVHN, contents | changed).sha256 for changed in ({}, {"a.mat": b"c"}, {"b.mat": b"c"})}
    assert len(checksums) == 3


# --- the JPEG copy ---------------------------------------------------------------------------------------------------


def test_the_jpeg_copy_comes_back_in_canonical_order(tmp_path):
    members, train, test = jpeg_members()
    contents = {"cifar10-jpeg.tar.gz": tar_gz(members | {"README.txt": b"not an image"})}
    source = source_of(jpeg.CIFAR10_JPEG, contents)
    data = load_from(put(tmp_path / "archives", contents), source, download=False)
    for images, labels, (files, made_labels) in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        assert labels.tolist() == made_labels
        for image, file in zip(images, files, strict=True):
            assert np.array_equal(image.numpy().transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(file))))
    assert data.title == "CIFAR-10, JPEG copy"
    assert data.checksum == f"sha256:{source.archives[0].sha256}"


def test_another_jpeg_archive_by_path_carries_its_own_checksum_and_says_so_in_its_title(tmp_path):
    members, *_ = jpeg_members()
    content = tar_gz(members)
    path = put(tmp_path / "mine", {"own.tar.gz": content}) / "own.tar.gz"
    data = load(f"cifar10-jpeg:{path}")
    assert data.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert data.title.startswith("CIFAR-10, JPEG copy (another: ")
    assert data.name == f"cifar10-jpeg:{path}"


def test_a_dataset_is_here_while_its_archive_or_its_decoded_images_are(tmp_path, monkeypatch):
    assert is_here("digits") and not is_here("cifar10") and not is_here("cifar10-jpeg")
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path / "archives"))
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "cifar10-jpeg.tar.gz").write_bytes(b"")
    assert is_here("cifar10-jpeg") and not is_here("cifar10")
    (tmp_path / "archives" / "cifar10-jpeg.tar.gz").unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"cifar10-jpeg-{jpeg.CIFAR10_JPEG.sha256[:16]}-v2.npz").write_bytes(b"")
    assert is_here("cifar10-jpeg")
    with pytest.raises(ValueError, match="unknown dataset"):
        is_here("cifar11")


def test_the_jpeg_copy_is_looked_for_in_each_documented_place(tmp_path, monkeypatch):
    content = b"some bytes"
    archive = archive_of(content, "cifar10-jpeg.tar.gz")
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path / "named"))
    in_order = [tmp_path / "named", tmp_path / "project" / "data", tmp_path / "shared" / "data"]
    for folder in in_order:
        put(folder, {archive.filename: content})
    for folder in in_order:
        assert obtain(archive, download=False).parent == folder
        (folder / archive.filename).unlink()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.9999])
def test_a_half_downloaded_jpeg_archive_of_any_length_is_refused(tmp_path, share):
    content = tar_gz(jpeg_members()[0])
    path = tmp_path / "own.tar.gz"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"own\.tar\.gz is damaged or half-downloaded.*Replace it"):
        load(f"cifar10-jpeg:{path}")


def test_a_flipped_bit_in_a_jpeg_archive_without_known_checksum_is_refused(tmp_path):
    content = bytearray(tar_gz(jpeg_members()[0]))
    content[-6] ^= 1  # the CRC that gzip stores at the end
    path = tmp_path / "own.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load(f"cifar10-jpeg:{path}")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"train/zebra/00099.jpg": jpeg_bytes(pixels(1)[0])}, "zebra/00099.jpg is in an unknown class"),
        ({"train/cat/00000.jpg": jpeg_bytes(pixels(1)[0])}, "repeats index 0"),
        ({"test/cat/00099.jpg": jpeg_bytes(pixels(1, size=16)[0])}, "00099.jpg is 16x16, not 32x32"),
        ({"test/cat/00099.jpg": b"no image"}, "test/cat/00099.jpg cannot be decoded"),
    ],
)
def test_a_wrong_file_in_a_jpeg_archive_is_named(tmp_path, extra, message):
    path = tmp_path / "own.tar.gz"
    path.write_bytes(tar_gz(jpeg_members()[0] | extra))
    with pytest.raises(ValueError, match=message):
        load(f"cifar10-jpeg:{path}")


def test_images_of_a_jpeg_archive_that_are_left_out_are_counted(tmp_path):
    path = tmp_path / "own.tar.gz"
    image = jpeg_bytes(pixels(1)[0])
    path.write_bytes(tar_gz(jpeg_members()[0] | {"Train/cat/00099.jpg": image, "train/cat/00099.jfif": image}))
    with pytest.warns(UserWarning, match="left out: 2 images that are no file .*, the first Train/cat/00099.jpg"):
        assert len(load(f"cifar10-jpeg:{path}").train_labels) == 12


def test_a_jpeg_archive_without_test_images_is_refused(tmp_path):
    path = tmp_path / "own.tar.gz"
    path.write_bytes(tar_gz({name: file for name, file in jpeg_members()[0].items() if name.startswith("train")}))
    with pytest.raises(ValueError, match="no image test/<class>/<index>.jpg"):
        load(f"cifar10-jpeg:{path}")


def test_an_absent_jpeg_archive_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="no archive .*absent.tar.gz"):
        load(f"cifar10-jpeg:{tmp_path / 'absent.tar.gz'}")


def test_the_real_jpeg_copy_is_cifar10_in_canonical_order(default_places):
    try:
        data = load("cifar10-jpeg", download=False)
    except FileNotFoundError as error:
        pytest.skip(f"the JPEG copy of CIFAR-10 is not on this machine: {error}")
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [5_000] * 10
    assert data.test_labels.bincount().tolist() == [1_000] * 10
    assert data.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    pixels01 = data.train_images[:10_000].float() / 255
    assert torch.allclose(pixels01.mean((0, 2, 3)), torch.tensor(data.mean), atol=0.005)
    assert torch.allclose(pixels01.std((2, 3)).mean(0), torch.tensor(data.std), atol=0.005)  # within an image


# --- a user's own images ---------------------------------------------------------------------------------------------


def draw(path: Path, image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image.transpose(1, 2, 0))
    image.save(path)
    return path


def photos(folder: Path, counts: dict[str, int], order=None) -> Path:
    """A folder of images by class; `order` shuffles the order in which the files are made."""
    todo = [(name, number) for name, count in counts.items() for number in range(count)]
    if order is not None:
        random.Random(order).shuffle(todo)
    for name, number in todo:
        image = np.random.default_rng([number, *os.fsencode(name)]).integers(0, 256, (3, 32, 32), dtype=np.uint8)
        draw(folder / name / f"{number:03d}.png", image)
    return folder


def test_a_page_description_that_is_named_as_an_image_starts_no_program(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    folder = photos(tmp_path / "pets", {"cat": 5, "dog": 5})
    page = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "cat" / "evil.png").write_text(page)
    with pytest.raises(ValueError, match="evil.png.*Repair or remove it"):
        load(f"folder:{folder}")


def test_a_folder_of_classes_is_split_80_to_20_in_each_class(tmp_path):
    data = load(f"folder:{photos(tmp_path / 'pets', {'cat': 10, 'dog': 20})}")
    assert data.classes == ("cat", "dog")
    assert data.train_labels.bincount().tolist() == [8, 16]
    assert data.test_labels.bincount().tolist() == [2, 4]
    together = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(together.unique(dim=0)) == 30  # no image in both parts
    assert data.title == "own images, pets"
    assert len(data.train_labels[:8].unique()) == 2  # shuffled: a subset has every class


def test_a_folders_split_and_order_depend_on_its_files_alone(tmp_path):
    counts = {"cat": 7, "dog": 5}
    first = load(f"folder:{photos(tmp_path / 'a', counts)}")
    second = load(f"folder:{photos(tmp_path / 'b', counts, order=1)}")
    assert first.checksum == second.checksum
    assert torch.equal(first.train_images, second.train_images)
    assert torch.equal(first.test_labels, second.test_labels)


def test_train_and_test_folders_are_kept_apart(tmp_path):
    photos(tmp_path / "pets" / "train", {"cat": 3, "dog": 4})
    photos(tmp_path / "pets" / "test", {"cat": 1, "dog": 2})
    data = load(f"folder:{tmp_path / 'pets'}")
    assert data.train_labels.bincount().tolist() == [3, 4]
    assert data.test_labels.bincount().tolist() == [1, 2]
    own = np.asarray(Image.open(tmp_path / "pets" / "test" / "cat" / "000.png")).transpose(2, 0, 1)
    (found,) = data.test_images[data.test_labels == 0]
    assert np.array_equal(found.numpy(), own)  # 32x32 RGB passes unchanged


def test_an_image_is_cropped_to_its_central_square_and_resized(tmp_path):
    wide = np.zeros((3, 64, 192), dtype=np.uint8)
    wide[0], wide[2, :, 64:128], wide[0, :, 64:128] = 255, 255, 0  # red, with a blue square in the middle
    folder = photos(tmp_path / "shapes", {"dot": 2})
    for number in range(2):
        draw(folder / "wide" / f"{number}.png", wide)
        draw(folder / "tall" / f"{number}.png", wide.transpose(0, 2, 1))
    data = load(f"folder:{folder}")
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    for name in ("wide", "tall"):
        (image,) = data.test_images[data.test_labels == data.classes.index(name)]
        assert torch.equal(image, blue)


def test_a_photo_is_turned_upright_and_a_grey_one_gets_three_channels(tmp_path):
    folder = photos(tmp_path / "photos", {"other": 2})
    half = np.zeros((32, 32), dtype=np.uint8)
    half[:16] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # to be turned by 180 degrees
    (folder / "turned").mkdir()
    for number in range(2):
        Image.fromarray(half).save(folder / "turned" / f"{number}.png", exif=exif)
    data = load(f"folder:{folder}")
    (image,) = data.test_images[data.test_labels == 1]
    assert image[:, :16].max() == 0
    assert image[:, 16:].min() == 255


def test_the_checksum_of_a_folder_changes_with_a_pixel_and_with_a_class_name(tmp_path):
    folder = photos(tmp_path / "pets", {"cat": 3, "dog": 3})
    before = load(f"folder:{folder}").checksum
    file = folder / "dog" / "001.png"
    times = file.stat().st_mtime_ns
    image = np.array(Image.open(file)).transpose(2, 0, 1)
    image[0, 0, 0] ^= 1
    draw(file, image)
    os.utime(file, ns=(times, times))  # an editor that keeps times must not be answered from the cache
    changed = load(f"folder:{folder}").checksum
    (folder / "dog").rename(folder / "eel")
    assert len({before, changed, load(f"folder:{folder}").checksum}) == 3


def test_a_folder_of_unusable_images_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*absent"):
        load(f"folder:{tmp_path / 'absent'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images in class folders; put them at"):
        load(f"folder:{tmp_path / 'empty'}")
    with pytest.raises(ValueError, match="one class only, 'cat'"):
        load(f"folder:{photos(tmp_path / 'single', {'cat': 3})}")
    with pytest.raises(ValueError, match="class 'dog' has one image; at least 2"):
        load(f"folder:{photos(tmp_path / 'few', {'cat': 3, 'dog': 1})}")


def test_an_unreadable_image_is_named(tmp_path):
    folder = photos(tmp_path / "pets", {"cat": 3, "dog": 3})
    (folder / "dog" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(ValueError, match="cannot decode .*dog.broken.jpg.*Repair or remove it"):
        load(f"folder:{folder}")
    whole = jpeg_bytes(pixels(1, size=64)[0])
    (folder / "dog" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot decode .*dog.broken.jpg"):
        load(f"folder:{folder}")


def test_an_image_of_16_bits_is_refused_instead_of_clipped(tmp_path):
    folder = photos(tmp_path / "pets", {"cat": 3, "dog": 3})
    Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)).save(folder / "cat" / "deep.png")
    with pytest.raises(ValueError, match="deep.png.*more than 8 bits"):
        load(f"folder:{folder}")


def test_train_and_test_folders_must_match(tmp_path):
    photos(tmp_path / "pets" / "train", {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match="has train/ but no test/"):
        load(f"folder:{tmp_path / 'pets'}")
    photos(tmp_path / "pets" / "test", {"cat": 2, "eel": 2})
    with pytest.raises(ValueError, match="same classes; only one of them has: dog, eel"):
        load(f"folder:{tmp_path / 'pets'}")


@pytest.mark.parametrize("place", ["cat/.ipynb_checkpoints", "cat/@eaDir/000.png", "__MACOSX/cat", ".thumbnails"])
def test_a_hidden_or_system_folder_holds_no_images_and_is_said(tmp_path, place):
    folder = photos(tmp_path / "pets", {"cat": 3, "dog": 3, place: 3})
    with pytest.warns(UserWarning, match="pets: left out: 1 hidden or system. Read are files that end in"):
        data = load(f"folder:{folder}")
    assert data.classes == ("cat", "dog")
    assert (len(data.train_labels), len(data.test_labels)) == (4, 2)


@pytest.mark.parametrize(
    "halves",
    [
        ("Train", "Test"),
        ("TRAINING", "Testing"),
        ("train", "val"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
    ],
)
@pytest.mark.parametrize("classes", [("cat", "dog"), ("",)], ids=["classes below", "images below"])
def test_a_split_under_other_names_is_refused_instead_of_trained_on_as_classes(tmp_path, halves, classes):
    for half in halves:
        photos(tmp_path / "pets" / half, dict.fromkeys(classes, 2))
    with pytest.raises(
        ValueError, match=f"pets has .*{halves[1]}/.* but no .*test/. Name the folder to train on train/"
    ):
        load(f"folder:{tmp_path / 'pets'}")


def test_a_class_may_be_called_train(tmp_path):
    folder = photos(tmp_path / "vehicles", {"train": 3, "plane": 3, "train/.ipynb_checkpoints": 1})
    with pytest.warns(UserWarning, match="1 hidden or system"):
        assert load(f"folder:{folder}").classes == ("plane", "train")


def test_images_in_linked_folders_are_read_and_each_folder_once(tmp_path):
    folder = photos(tmp_path / "pets", {"cat": 4, "dog": 4})
    (folder / "cat" / "more").symlink_to(photos(tmp_path / "elsewhere", {"cats": 20}) / "cats")
    (folder / "cat" / "again").symlink_to(folder / "cat")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "eel").symlink_to(photos(tmp_path / "elsewhere", {"eels": 5}) / "eels")
    data = load(f"folder:{folder}")
    assert data.classes == ("cat", "dog", "eel")
    assert torch.cat([data.train_labels, data.test_labels]).bincount().tolist() == [24, 4, 5]


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".Jpeg"])
def test_a_jpeg_file_is_an_image_whatever_its_ending(tmp_path, ending):
    folder = photos(tmp_path / "pets", {"cat": 2, "dog": 2})
    for number in range(2):
        (folder / "eel").mkdir(exist_ok=True)
        (folder / "eel" / f"{number}{ending}").write_bytes(jpeg_bytes(pixels(1)[0]))
    assert load(f"folder:{folder}").classes == ("cat", "dog", "eel")


def test_what_a_folder_leaves_out_is_counted(tmp_path):
    folder = tmp_path / "pets"
    photos(folder / "train", {"cat": 2, "dog": 2})
    photos(folder / "test", {"cat": 1, "dog": 1})
    photos(folder / "val", {"cat": 3, "dog": 4})
    put(folder / "train" / "cat", {"a.HEIC": b"", "b.heic": b"", "._c.png": b"", ".DS_Store": b"", "notes": b""})
    (folder / "test" / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    draw(folder / "train" / "loose.png", pixels(1)[0])
    counts = [
        "2 .heic", "7 beside train/ and test/", "1 hidden or system", "1 linked to nothing",
        "1 outside the class folders", "1 without an ending",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match=f"pets: left out: {', '.join(counts)}. Read are"):
        data = load(f"folder:{folder}")
    assert (len(data.train_labels), len(data.test_labels)) == (4, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda eel: put(eel, {"a.heic": b"", "b.heic": b""}), r"a class without images \(left out: 2 .heic\)"),
        (Path.mkdir, r"a class without images \(it is empty\); put files there"),
        (lambda eel: eel.symlink_to("gone"), "is a link to nothing; mend or remove it"),
    ],
)
def test_a_class_that_would_be_lost_is_refused(tmp_path, make, message):
    folder = photos(tmp_path / "pets", {"cat": 2, "dog": 2})
    make(folder / "eel")
    with pytest.raises(ValueError, match=f"eel.*{message}"):
        load(f"folder:{folder}")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder, scandir = photos(tmp_path / "pets", {"cat": 2, "dog": 2, "dog/more": 2}), os.scandir

    def denied(path):
        if Path(path).name == "more":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match="cannot read .*dog.more: Permission denied; make it readable"):
        load(f"folder:{folder}")


def test_a_photo_is_turned_whatever_else_its_exif_says(tmp_path):
    entries = struct.pack(">HHIHHHHII", 0x0112, 3, 1, 6, 0, 0x011A, 10, 1, 38)  # turn by 90 degrees; a resolution
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + struct.pack(">Iii", 0, -1, 0)  # of -1/0
    half = np.zeros((32, 32), dtype=np.uint8)
    half[:16] = 255  # bright above
    folder = photos(tmp_path / "photos", {"other": 2})
    (folder / "turned").mkdir()
    for number in range(2):
        Image.fromarray(half).save(folder / "turned" / f"{number}.png", exif=exif)
    data = load(f"folder:{folder}")
    (image,) = data.test_images[data.test_labels == 1]
    assert np.array_equal(image[0].numpy(), np.rot90(half, -1))


@pytest.fixture
def latin1(tmp_path):
    """A path in `tmp_path` whose name is in Latin-1, as an old archive unpacks it."""
    path = Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9"))
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    return path


def test_a_file_may_have_a_name_that_is_not_unicode_and_a_class_or_a_dataset_may_not(tmp_path, latin1):
    folder = photos(tmp_path / "pets", {"cat": 3, "dog": 3})
    draw(folder / "dog" / f"{latin1.name}.png", pixels(1)[0])
    assert len(load(f"folder:{folder}").train_labels) == 5
    photos(folder, {latin1.name: 2})
    with pytest.raises(ValueError, match=r"class folder .*caf\\udce9 is not Unicode; rename it"):
        load(f"folder:{folder}")
    with pytest.raises(ValueError, match=r"caf\\udce9' is not Unicode; rename its path"):
        load(f"folder:{latin1}")


def test_a_class_written_in_two_forms_of_unicode_is_one_class(tmp_path):
    photos(tmp_path / "pets" / "train", {"\u00e9": 2, "dog": 2})  # one letter
    photos(tmp_path / "pets" / "test", {"e\u0301": 3, "dog": 1})  # a letter and its accent, as macOS writes it
    data = load(f"folder:{tmp_path / 'pets'}")
    assert data.classes == ("dog", "\u00e9")
    assert data.test_labels.bincount().tolist() == [1, 3]


# --- archives: found, verified ---------------------------------------------------------------------------------------


def test_a_half_downloaded_archive_is_named_with_both_sizes_and_the_remedy(tmp_path):
    contents, *_ = tiny_cifar10()
    ((name, content),) = contents.items()
    root = put(tmp_path / "archives", {name: content[:-100]})
    with pytest.raises(ValueError, match="half-downloaded") as caught:
        load_from(root, source_of(cifar.CIFAR10, contents, urls=["http://localhost"]), download=False)
    message = str(caught.value)
    assert str(root / name) in message
    assert f"expected {len(content):,} bytes, found {len(content) - 100:,}" in message
    assert "Delete" in message
    assert (root / name).exists()  # the user's file is never removed


def test_a_corrupt_archive_is_named_with_both_checksums_before_anything_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    trapped = tar_gz({"cifar-10-batches-py/data_batch_1": pickle.dumps(Trap())})
    name = "cifar-10-python.tar.gz"
    intact = bytes(len(trapped))
    root = put(tmp_path / "archives", {name: trapped})
    with pytest.raises(ValueError, match="is corrupt: expected sha256") as caught:
        load_from(root, source_of(cifar.CIFAR10, {name: intact}), download=False)
    assert hashlib.sha256(intact).hexdigest() in str(caught.value)
    assert hashlib.sha256(trapped).hexdigest() in str(caught.value)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="lacks"):  # the trap is real: with a matching checksum it springs
        load_from(root, source_of(cifar.CIFAR10, {name: trapped}), download=False)
    assert (tmp_path / "sprung").exists()


def test_an_absent_archive_names_places_address_and_remedy_when_downloading_is_off():
    with pytest.raises(FileNotFoundError, match="downloading is off") as caught:
        load("cifar10", download=False)
    message = str(caught.value)
    assert cifar.CIFAR10.archives[0].urls[0] in message
    assert str(places.checkout() / "data" / "cifar-10-python.tar.gz") in message
    assert '"cifar10-jpeg" or "digits"' in message


def test_an_absent_jpeg_copy_says_where_it_was_looked_for():
    with pytest.raises(FileNotFoundError, match="cifar10-jpeg.tar.gz was found in none of") as caught:
        load("cifar10-jpeg")
    assert str(places.checkout().parent / "shared" / "data") in str(caught.value)
    assert "19,485,318 bytes" in str(caught.value)


# --- downloads -------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Files by path, with a list of the requests made: (path, Range header)."""

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = files, []
        self.ranges = True  # answer Range requests in part
        self.cut_after = None  # bytes after which the connection breaks
        self.announces = True  # send Content-Length; or what to send as such
        self.answers = None  # the byte from which any answer begins, or "refused" for none to a Range request

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404, "Not Found")
            return
        if asked and self.server.answers == "refused":
            self.send_error(416, "Range Not Satisfiable")
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        partial = start > 0
        if isinstance(self.server.answers, int):
            start, partial = self.server.answers, True
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.announces:
            size = len(content) - start if self.server.announces is True else self.server.announces
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(files):
        server = Server(files)
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


CONTENT = np.random.default_rng(0).bytes(300_000)
NAME = "some.tar.gz"


def fetch_archive(folder, urls, content=CONTENT):
    with mock.patch.dict(os.environ, {"ADVLIB_DATA": str(folder)}):
        return obtain(archive_of(content, NAME, urls), download=True)


def test_a_download_arrives_whole_and_leaves_no_part(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    path = fetch_archive(tmp_path / "new" / "folder", [f"{server.url}/{NAME}"])
    assert path.read_bytes() == CONTENT
    assert not list(path.parent.glob("*.part"))


def test_a_dataset_is_downloaded_decoded_and_then_needs_neither_network_nor_archive(tmp_path, serve):
    contents, (images, _), _ = tiny_cifar10()
    server = serve({f"/{name}": content for name, content in contents.items()})
    source = source_of(cifar.CIFAR10, contents, urls=[server.url])
    first = load_from(tmp_path, source, download=True)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    second = load_from(tmp_path, source, download=False)
    assert len(server.asked) == 1
    for data in (first, second):
        assert np.array_equal(data.train_images.numpy(), images)
        assert data.classes == tuple(f"class {number}" for number in range(10))


def test_a_download_goes_on_from_its_part(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    put(tmp_path, {f"{NAME}.part": CONTENT[:123_456]})
    assert fetch_archive(tmp_path, [f"{server.url}/{NAME}"]).read_bytes() == CONTENT
    assert server.asked == [(f"/{NAME}", "bytes=123456-")]


def test_a_server_without_ranges_starts_the_file_anew(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    server.ranges = False
    put(tmp_path, {f"{NAME}.part": CONTENT[:1000]})
    assert fetch_archive(tmp_path, [f"{server.url}/{NAME}"]).read_bytes() == CONTENT
    assert server.asked == [(f"/{NAME}", "bytes=1000-")]  # what it sent is used, not asked for again


def test_a_part_with_wrong_bytes_is_discarded_and_fetched_again(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    for wrong in (b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)):
        put(tmp_path, {f"{NAME}.part": wrong})
        path = fetch_archive(tmp_path, [f"{server.url}/{NAME}"])
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_a_whole_part_needs_no_connection(tmp_path, serve):
    server = serve({})
    put(tmp_path, {f"{NAME}.part": CONTENT})
    assert fetch_archive(tmp_path, [f"{server.url}/{NAME}"]).read_bytes() == CONTENT
    assert server.asked == []


def test_a_second_address_goes_on_where_the_first_broke_off(tmp_path, serve):
    first, second = serve({f"/{NAME}": CONTENT}), serve({f"/{NAME}": CONTENT})
    first.cut_after = 100_000
    assert fetch_archive(tmp_path, [f"{first.url}/{NAME}", f"{second.url}/{NAME}"]).read_bytes() == CONTENT
    assert second.asked == [(f"/{NAME}", "bytes=100000-")]


@pytest.mark.parametrize("answer", [{}, {f"/{NAME}": b"an error page"}, {f"/{NAME}": bytes(len(CONTENT))}])
def test_a_second_address_serves_where_the_first_is_missing_or_sends_something_else(tmp_path, serve, answer):
    first, second = serve(answer), serve({f"/{NAME}": CONTENT})
    assert fetch_archive(tmp_path, [f"{first.url}/{NAME}", f"{second.url}/{NAME}"]).read_bytes() == CONTENT
    assert first.asked
    assert second.asked == [(f"/{NAME}", None)]


def test_a_server_that_never_stops_sending_is_left_for_the_next(tmp_path, serve):
    first, second = serve({f"/{NAME}": CONTENT * 20}), serve({f"/{NAME}": CONTENT})
    first.announces = False
    assert fetch_archive(tmp_path, [f"{first.url}/{NAME}", f"{second.url}/{NAME}"]).read_bytes() == CONTENT


def test_a_mirror_that_is_no_address_is_named_and_the_next_one_serves(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("ADVLIB_MIRROR", "no-address")
    with pytest.raises(ConnectionError, match=f"no-address/{NAME} failed .*unknown url type"):
        fetch_archive(tmp_path, [])
    server = serve({f"/{NAME}": CONTENT})
    assert fetch_archive(tmp_path, [f"{server.url}/{NAME}"]).read_bytes() == CONTENT


def test_an_error_page_does_not_overwrite_what_has_arrived(tmp_path, serve):
    server = serve({f"/{NAME}": b"please log in to this network"})
    server.ranges = False
    put(tmp_path, {f"{NAME}.part": CONTENT[:5000]})
    with pytest.raises(ConnectionError, match="offers 29 bytes instead of 300,000"):
        fetch_archive(tmp_path, [f"{server.url}/{NAME}"])
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:5000]


@pytest.mark.parametrize("announces", [False, "many"], ids=["no size", "a size that is no number"])
@pytest.mark.parametrize("arrived", [0, 5000])
def test_an_error_page_without_a_size_touches_nothing_and_the_next_address_goes_on(tmp_path, serve, arrived, announces):
    portal, official = serve({f"/{NAME}": b"please log in to this network\n" * 200}), serve({f"/{NAME}": CONTENT})
    portal.ranges, portal.announces = False, announces
    put(tmp_path, {f"{NAME}.part": CONTENT[:arrived]})
    path = fetch_archive(tmp_path, [f"{portal.url}/{NAME}", f"{official.url}/{NAME}"])
    assert path.read_bytes() == CONTENT
    assert official.asked == [(f"/{NAME}", f"bytes={arrived}-" if arrived else None)]
    assert {file.name for file in path.parent.glob(f"{NAME}*")} == {NAME, f"{NAME}.lock"}


@pytest.mark.parametrize(
    ("answers", "ranges", "then"),
    [("refused", ["bytes=5000-", None], []), (0, ["bytes=5000-"], []), (77, ["bytes=5000-", None], ["bytes=5000-"])],
)
def test_a_resume_that_is_refused_or_answered_with_another_part_is_asked_for_anew(
    tmp_path, serve, answers, ranges, then
):
    first, second = serve({f"/{NAME}": CONTENT}), serve({f"/{NAME}": CONTENT})
    first.answers = answers
    put(tmp_path, {f"{NAME}.part": CONTENT[:5000]})
    assert fetch_archive(tmp_path, [f"{first.url}/{NAME}", f"{second.url}/{NAME}"]).read_bytes() == CONTENT
    assert ([asked for _, asked in first.asked], [asked for _, asked in second.asked]) == (ranges, then)


def test_a_start_anew_that_breaks_off_keeps_what_had_arrived(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    server.answers, server.cut_after = "refused", 100
    put(tmp_path, {f"{NAME}.part": CONTENT[:5000]})
    with pytest.raises(ConnectionError, match="ended after 100 of .* 5,000 of 300,000 bytes are kept"):
        fetch_archive(tmp_path, [f"{server.url}/{NAME}"])
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:5000]


def test_the_users_mirror_is_asked_first(tmp_path, serve, monkeypatch):
    mirror, official = serve({f"/copies/{NAME}": CONTENT}), serve({f"/{NAME}": CONTENT})
    monkeypatch.setenv("ADVLIB_MIRROR", f"{mirror.url}/copies/")
    fetch_archive(tmp_path, [f"{official.url}/{NAME}"])
    assert mirror.asked == [(f"/copies/{NAME}", None)]
    assert official.asked == []


def test_an_unreachable_network_names_address_file_and_remedy(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    contents, *_ = tiny_cifar10()
    source = source_of(cifar.CIFAR10, contents, urls=[f"http://127.0.0.1:{port}"])
    with pytest.raises(ConnectionError, match="cannot download cifar-10-python.tar.gz") as caught:
        load_from(tmp_path, source, download=True)
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}/cifar-10-python.tar.gz failed" in message
    assert f"at {tmp_path / 'cifar-10-python.tar.gz'} yourself" in message
    assert '"cifar10-jpeg" or "digits"' in message


def test_a_broken_connection_keeps_its_bytes_and_the_next_call_goes_on(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    server.cut_after = 50_000
    with pytest.raises(ConnectionError, match="50,000 of 300,000 bytes are kept in .*run again"):
        fetch_archive(tmp_path, [f"{server.url}/{NAME}"])
    server.cut_after = None
    assert fetch_archive(tmp_path, [f"{server.url}/{NAME}"]).read_bytes() == CONTENT
    assert server.asked[-1] == (f"/{NAME}", "bytes=50000-")


def test_downloading_off_opens_no_connection(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    with pytest.raises(FileNotFoundError, match="downloading is off"):
        obtain(archive_of(CONTENT, NAME, [f"{server.url}/{NAME}"]), download=False)
    assert server.asked == []


@pytest.mark.skipif(sys.platform == "win32", reason="file locks by fcntl are a POSIX matter")
def test_runs_that_start_together_download_once(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    barrier = threading.Barrier(4)
    archive = archive_of(CONTENT, NAME)

    def one_run():
        barrier.wait()
        download.fetch(tmp_path / NAME, (f"{server.url}/{NAME}",), size=archive.size, sha256=archive.sha256, remedy="-")

    runs = [threading.Thread(target=one_run) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_full_disk_during_a_download_says_so_and_keeps_what_arrived(tmp_path, serve, monkeypatch):
    server = serve({f"/{NAME}": CONTENT})
    put(tmp_path, {f"{NAME}.part": CONTENT[:1000]})

    def open_on_a_full_disk(path, mode="r", **more):
        handle = open(path, mode, **more)  # noqa: SIM115
        if mode.startswith("a") and str(path).endswith(".part"):
            handle.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return handle

    monkeypatch.setattr(download, "open", open_on_a_full_disk, raising=False)
    with pytest.raises(OSError, match="cannot write .*No space left on device.*ADVLIB_DATA"):
        fetch_archive(tmp_path, [f"{server.url}/{NAME}"])
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("name", [f"{NAME}.part", f"{NAME}.part.new", f"{NAME}.lock"])
def test_a_download_writes_through_no_link(tmp_path, serve, name):
    server, precious = serve({f"/{NAME}": CONTENT}), tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / name).symlink_to(precious)
    if name.endswith(".new"):  # where the bytes go that do not continue those at hand
        put(tmp_path, {f"{NAME}.part": CONTENT[:1000]})
        server.ranges = False
    with contextlib.suppress(OSError):
        fetch_archive(tmp_path, [f"{server.url}/{NAME}"])
    assert precious.read_text() == "precious"


def test_an_unwritable_folder_for_a_download_says_so(tmp_path, serve):
    server = serve({f"/{NAME}": CONTENT})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write .*choose a writable folder"):
        fetch_archive(tmp_path / "file" / "folder", [f"{server.url}/{NAME}"])


# --- the cache of decoded images -------------------------------------------------------------------------------------


@pytest.fixture
def jpeg_archive(tmp_path):
    """(path of a small JPEG archive, the dataset it holds, its cache)."""
    path = tmp_path / "own.tar.gz"
    path.write_bytes(tar_gz(jpeg_members()[0]))
    data = load(f"cifar10-jpeg:{path}")
    (cached,) = (tmp_path / "cache").glob("*.npz")
    return path, data, cached


def decodes(monkeypatch):
    """A list that grows with each archive decoded."""
    calls, read = [], jpeg.read
    monkeypatch.setattr(jpeg, "read", lambda paths: calls.append(paths) or read(paths))
    return calls


def same(a, b):
    return all(
        torch.equal(getattr(a, field), getattr(b, field))
        for field in ("train_images", "train_labels", "test_images", "test_labels")
    )


def test_an_archive_is_decoded_once(jpeg_archive, monkeypatch):
    path, data, cached = jpeg_archive
    calls = decodes(monkeypatch)
    assert same(load(f"cifar10-jpeg:{path}"), data)
    assert calls == []
    assert data.checksum.removeprefix("sha256:")[:16] in cached.name


def test_another_archive_is_not_answered_from_the_cache(jpeg_archive, monkeypatch):
    path, data, _ = jpeg_archive
    path.write_bytes(tar_gz(jpeg_members(train=13)[0]))
    assert len(load(f"cifar10-jpeg:{path}").train_labels) == len(data.train_labels) + 1


def flip(content):
    """One bit changed in the middle of the images."""
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def foreign(_):
    buffer = io.BytesIO()
    np.savez(buffer, something=np.zeros(3))
    return buffer.getvalue()


def mislabelled(_):
    buffer = io.BytesIO()
    images = np.zeros((2, 3, 4, 4))
    np.savez(buffer, train_images=images, train_labels=images, test_images=images, test_labels=images, classes=["a"])
    return buffer.getvalue()


def altered(content, **changes):
    """As somebody alters a file by hand: whole, with check sums that are right."""
    arrays, buffer = dict(np.load(io.BytesIO(content))), io.BytesIO()
    np.savez(buffer, **arrays | {name: change(arrays[name]) for name, change in changes.items()})
    return buffer.getvalue()


BY_HAND = {
    "labels reversed": {"train_labels": lambda labels: 9 - labels},
    "black images": {"test_images": np.zeros_like},
    "names exchanged": {"classes": lambda names: names[::-1]},
    "of another archive": {"said": lambda said: np.array(str(said).replace(str(said)[:64], "0" * 64))},
}


@pytest.mark.parametrize(
    "damage",
    [
        *(flip, lambda c: c[:-500], lambda c: b"", lambda c: b"junk" * 99, foreign, mislabelled),
        *(functools.partial(altered, **changes) for changes in BY_HAND.values()),
    ],
)
def test_a_damaged_cache_is_deleted_and_rebuilt_with_a_warning(jpeg_archive, monkeypatch, damage):
    path, data, cached = jpeg_archive
    cached.write_bytes(damage(cached.read_bytes()))
    calls = decodes(monkeypatch)
    with pytest.warns(UserWarning, match="is damaged .* deleted and rebuilt"):
        assert same(load(f"cifar10-jpeg:{path}"), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(load(f"cifar10-jpeg:{path}"), data)
    assert len(calls) == 1


def test_a_damaged_cache_that_cannot_be_rebuilt_is_gone_all_the_same(jpeg_archive, monkeypatch):
    path, data, cached = jpeg_archive
    cached.write_bytes(b"junk")
    monkeypatch.setattr(np, "savez", lambda *_, **__: os.stat("no such file"))
    with pytest.warns(UserWarning, match="is damaged"), pytest.warns(UserWarning, match="cannot write the cache"):
        assert same(load(f"cifar10-jpeg:{path}"), data)
    assert not cached.exists()


def test_a_full_disk_costs_the_cache_only(jpeg_archive, monkeypatch, tmp_path):
    path, _, cached = jpeg_archive
    path.write_bytes(tar_gz(jpeg_members(train=13)[0]))

    def savez(handle, **_):
        handle.write(b"some bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.warns(UserWarning, match="cannot write the cache .*No space left on device.*ADVLIB_CACHE"):
        assert len(load(f"cifar10-jpeg:{path}").train_labels) == 13
    assert list((tmp_path / "cache").iterdir()) == [cached]  # the older cache stands, and nothing half-written


def test_an_unwritable_cache_folder_costs_the_cache_only(jpeg_archive, monkeypatch, tmp_path):
    path, data, _ = jpeg_archive
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ADVLIB_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.warns(UserWarning, match="cannot write the cache"):
        assert same(load(f"cifar10-jpeg:{path}"), data)


def test_caches_lie_in_the_checkout_or_else_in_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ADVLIB_CACHE")
    assert places.cache_folder() == tmp_path / "project" / "data" / "cache"
    monkeypatch.setattr(places, "checkout", lambda: None)
    assert places.cache_folder() == tmp_path / "home" / ".cache" / "advlib"


def test_the_checksum_without_torch_is_that_of_the_loaded_data_and_none_where_they_are_not(tmp_path):
    members, *_ = jpeg_members()
    archive = put(tmp_path / "mine", {"own.tar.gz": tar_gz(members)}) / "own.tar.gz"
    here = ("digits", f"folder:{photos(tmp_path / 'pets', {'cat': 3, 'dog': 3})}", f"cifar10-jpeg:{archive}")
    assert [checksum(name) for name in here] == [load(name).checksum for name in here]
    for absent in ("cifar10", "svhn", f"folder:{tmp_path / 'no'}", f"cifar10-jpeg:{tmp_path / 'no'}"):
        assert checksum(absent) is None


def test_the_checksum_of_a_published_data_set_is_that_of_its_archives(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    (tmp_path / "cifar10-jpeg.tar.gz").write_bytes(b"found by its name")
    assert checksum("cifar10-jpeg") == f"sha256:{jpeg.CIFAR10_JPEG.archives[0].sha256}"
