"""Shared fixtures: one thread, width-8 models whose batch norms have something to say, one fixed batch."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start: small tensors gain nothing

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny():
    """``tiny(**options)``: a width-8 ResNet-18 in evaluation mode, the same on every call.

    Every batch norm gets its own affine parameters and statistics: freshly initialised ones are all alike, and a test
    of branches or of statistics would pass by accident.
    """
    from advlib.resnet import resnet18

    def make(**options) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = resnet18(width=8, **options)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    scramble(module)
        return model.eval()

    return make


def scramble(batch_norm: nn.BatchNorm2d) -> None:
    """Affine parameters and running statistics away from their initial 0 and 1."""
    with torch.no_grad():
        batch_norm.weight.uniform_(0.5, 1.5)
        batch_norm.bias.normal_(std=0.3)
        batch_norm.running_mean.normal_(std=0.3)
        batch_norm.running_var.uniform_(0.5, 2.0)


@pytest.fixture
def batch():
    """(5, 3, 16, 16) pixels, some of them exactly 0 and 1, and labels: an odd batch, large enough for three strides."""
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(5, 3, 16, 16, generator=generator) * 1.2 - 0.1).clamp(0, 1)
    return x, torch.randint(0, 10, (5,), generator=generator)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """The folder of a project without a result, as after the first command of a fork that cleared them."""
    from made_up_book import project

    return project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """A book with lite records of some rows. Returns the folder of its pages."""
    import fake_records as fake
    from made_up_book import LITE_ROWS, build, project

    from study.plan import catalogue

    folder = project(tmp_path_factory.mktemp("a book"))  # with a space, as in a reader's folder
    for key in LITE_ROWS:
        for protocol in catalogue.PROTOCOLS:
            fake.put(fake.record(key, protocol), folder / "results")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_build" / "html"
