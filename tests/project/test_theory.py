"""What the theory chapters claim: about their figures, about the code they include, and about each other."""

import ast
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from places import ROOT
from pybtex.database import parse_file
from torch import nn

from advlib.activations import ParametricSoftplus, SurrogateReLU
from advlib.attacks import predictions
from advlib.losses import als, cross_entropy, label_smoothing
from advlib.resnet import CIFAR10_MEAN, CIFAR10_STD
from study.drawings import diagrams, toy, two_norms
from study.experiment.evaluate import make_images
from study.experiment.weights import load_model
from study.plan.attacks import CLAMP_ALONE, Attack

CHAPTERS = sorted((ROOT / "book" / "theory").glob("*.md"))
PAGES = sorted((ROOT / "book").rglob("*.md"))
WITHOUT_DOI = {  # none was given
    "dallaire2021mixture",
    "krizhevsky2009learning",
    "box2005statistics",
    "kim2023fantastic",
    "chellapilla2006high",
    "netzer2011reading",
}
MODEL = ROOT / "models" / "advprop.safetensors"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# the chapters


def test_every_chapter_has_code_a_figure_what_goes_wrong_and_a_next():
    assert len(CHAPTERS) == 8
    for path in CHAPTERS:
        page = path.read_text()
        assert "{literalinclude} ../../advlib/" in page and "figure = " in page, path.name
        assert "\n## What goes wrong" in page and "\nNext: " in page, path.name
        assert "def " not in page, f"{path.name} defines a function: put it into advlib"


@pytest.mark.parametrize(
    ("written", "used"),
    [(r":label: (eq-[\w-]+)", r"\{eq\}`(eq-[\w-]+)`"), (r":\s+name: (fig-[\w-]+)", r"\{numref\}`(fig-[\w-]+)`")],
    ids=["equations", "figures"],
)
def test_every_number_is_given_once_and_referred_to(written, used):
    text = "\n".join(path.read_text() for path in PAGES)
    labels = re.findall(written, text)
    assert len(labels) == len(set(labels)) > 5
    assert set(labels) == set(re.findall(used, text))


def test_the_bibliography_is_used_up_and_every_entry_can_be_found():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    text = "\n".join(path.read_text() for path in PAGES)
    cited = {key for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", text) for key in keys.split(",")}
    assert cited == set(entries.keys())
    assert {key for key, entry in entries.items() if "doi" not in entry.fields} <= WITHOUT_DOI


def test_prose_has_no_percentage_with_decimals():
    """A measured accuracy that was typed by hand would look like this."""
    for path in [*CHAPTERS, ROOT / "book" / "as-published.md"]:
        assert not re.findall(r"\d\.\d+\s*(%|percent)", path.read_text()), path.name


# two pixels


@pytest.fixture(scope="module")
def smoothed():
    x, y = toy.clusters()
    return x, y, {title: toy.train(x, y, loss_fn) for title, loss_fn in toy.SMOOTHINGS.items()}


def test_all_smoothings_classify_every_point_and_differ_in_confidence(smoothed):
    x, y, models = smoothed
    confidence = []
    for model in models.values():
        assert (predictions(model, x) == y).all()
        with torch.no_grad():
            confidence.append(model(x).softmax(1).max(1).values.mean().item())
    none, standard, adversarial = confidence
    assert none > 0.99 > standard + 0.05 > adversarial + 0.05


def test_smoothing_hardly_changes_how_many_points_an_attack_fools(smoothed):
    x, y, models = smoothed
    lost = [int(toy.fooled(model, x, y, eps=toy.WIDE).sum()) for model in models.values()]
    assert max(lost) - min(lost) <= 4 and 10 < min(lost) < 50


def test_the_captions_lengths_are_those_of_the_figures():
    page = (ROOT / "book" / "theory" / "als.md").read_text()
    assert rf"($\\alpha = {toy.SMOOTHING}$)" in page and f"PGD of radius {toy.WIDE}" in " ".join(page.split())


def test_adversarial_training_moves_the_boundary_out_of_every_square():
    x, y = toy.curves()
    ordinary, adversarial = toy.train(x, y), toy.train(x, y, attack=toy.training_attack())
    for model in (ordinary, adversarial):
        assert (predictions(model, x) == y).all()
    assert toy.fooled(ordinary, x, y).sum() > 4 and toy.fooled(adversarial, x, y).sum() == 0


def test_squares_of_different_classes_do_not_touch():
    x, y = toy.curves()
    a, b = x[y == 0].flatten(1), x[y == 1].flatten(1)
    assert torch.cdist(a, b, p=float("inf")).min() > 2 * toy.EPS


def test_scaling_logits_changes_no_decision_and_fools_the_attacks():
    x, y = toy.curves()
    model = toy.train(x, y)
    assert torch.equal(predictions(lambda z: 1000 * model(z), x), predictions(model, x))
    accuracy = toy.masked_accuracy()
    assert accuracy["PGD"][0] < 0.9 and accuracy["PGD"][-1] == accuracy["FGSM"][-1] == 1
    assert len(set(accuracy[toy.UNSCALED])) == 1


def test_training_on_two_pixels_leaves_the_generator_alone():
    x, y = toy.curves()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    toy.train(x, y, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


# equations


def test_als_is_the_worst_way_to_mislabel_a_share_of_the_mass():
    logits = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 6
    log_p = logits.log_softmax(1)
    true = -log_p.gather(1, labels[:, None]).squeeze(1)
    worst = (0.9 * true + 0.1 * (-log_p).max(1).values).mean()  # the maximum over r is at a corner: one class
    assert als(logits, labels, 0.1).item() == pytest.approx(worst.item(), abs=1e-12)


def test_label_smoothing_is_satisfied_at_a_finite_gap_and_cross_entropy_is_not():
    K, alpha = 5, 0.2
    gap = float(np.log((1 - alpha + alpha / K) / (alpha / K)))
    logits = torch.tensor([[gap, 0, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(label_smoothing(logits, torch.tensor([0]), alpha), logits)
    assert gradient.abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0])), logits)
    assert gradient.abs().max() > 0.01


def test_the_surrogate_gradient_is_the_gradient_of_no_function():
    """The derivative of a gradient is symmetric. That of two layers with surrogate slopes is not."""
    asymmetry = {}
    for activation in (SurrogateReLU, ParametricSoftplus):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)).double()

        def gradient(x, model=model):
            return torch.autograd.grad(model(x).sum(), x)[0]

        # by differences, as automatic differentiation would put the surrogate's slope here as well
        x, h = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), 1e-5 * torch.eye(3, dtype=torch.float64)
        ends = [[gradient((x + sign * step).requires_grad_()) for step in h] for sign in (1, -1)]
        jacobian = (torch.stack(ends[0]) - torch.stack(ends[1])) / 2e-5
        asymmetry[activation] = (jacobian - jacobian.T).abs().max().item()
    assert asymmetry[ParametricSoftplus] < 1e-7 and asymmetry[SurrogateReLU] > 1e-3


# the branches of a trained network


def test_the_statistics_that_are_drawn_are_the_models():
    layers, model = two_norms.read(MODEL), load_model(MODEL)
    assert len(layers) == 20 and sum(layer.shortcut for layer in layers) == 3
    assert layers[0].name == "stem_norm"
    for layer in layers:
        main, aux = (model.get_submodule(f"{layer.name}.{branch}") for branch in two_norms.BRANCHES)
        shift = (aux.running_mean - main.running_mean) / main.running_var.sqrt()
        assert np.allclose(layer.shift, shift.numpy(), atol=1e-5)
        assert np.allclose(layer.ratio, (aux.running_var / main.running_var).sqrt().numpy(), atol=1e-5)


def test_the_figure_and_its_sentence_show_these_statistics_and_the_stem_is_special():
    layers = two_norms.read(MODEL)
    shifts = [np.median(np.abs(layer.shift)) for layer in layers]
    drawn = np.concatenate([line.get_ydata() for line in two_norms.statistics(layers).axes[0].get_lines()])
    assert np.allclose(sorted(drawn), sorted(shifts))
    assert f"{max(shifts):.2f}" in two_norms.summary(layers) and f"{shifts[0]:.3f}" in two_norms.summary(layers)
    assert shifts[0] < 0.1 * min(shifts[1:]), "the text says that the stem hardly differs"


def test_a_network_without_advprop_has_no_branches_to_read():
    with pytest.raises(ValueError, match="no dual batch norm"):
        two_norms.read(ROOT / "models" / "als.safetensors")


# drawings


def test_the_drawn_clamp_is_what_the_published_rule_does_to_images(tiny):
    model = tiny().eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1])
    attack = Attack(**{**vars(CLAMP_ALONE), "rule": "published", "space": "standardised"})
    shown = make_images(model, x, y, attack)
    mean, std = model.standardise.mean.flatten().tolist(), model.standardise.std.flatten().tolist()
    drawn = np.stack([diagrams.clamped(x[:, c].numpy(), mean[c], std[c]) for c in range(3)], axis=1)
    assert np.allclose(shown.numpy(), drawn, atol=1e-6)
    assert np.allclose(diagrams.clamped(np.array([0.0, 1.0]), CIFAR10_MEAN[0], CIFAR10_STD[0]), [0.4914, 0.6937])


def test_every_image_drawn_is_inside_its_ball_and_a_half_reaches_flat_grey():
    panels = np.array(diagrams.how_large_is_eps().axes).reshape(2, -1)
    original = panels[0, 0].images[0].get_array()
    for column, eps in zip(panels.T, diagrams.RADII.values(), strict=True):
        for panel in column:
            image = panel.images[0].get_array()
            assert np.abs(image - original).max() <= eps + 1e-9 and image.min() >= 0 and image.max() <= 1
    assert np.ptp(panels[1, -1].images[0].get_array()) == 0


def test_the_diagrams_can_be_drawn():
    for draw in (diagrams.two_branches, diagrams.training_step):
        assert draw().axes


def test_every_function_that_a_page_includes_is_in_the_file_it_is_taken_from():
    included = re.compile(r"\{literalinclude\} (\S+)\n(?::\w+: .*\n)*?:pyobject: (\S+)\n")
    found = [(page, *match) for page in PAGES for match in included.findall(page.read_text())]
    assert len(found) > 5
    for page, file, name in found:
        defined = {getattr(node, "name", None) for node in ast.walk(ast.parse((page.parent / file).read_text()))}
        assert name in defined, f"{page.name} includes {name}, which {file} does not define"
