"""What the teaching notebooks compute. Their pictures are looked at; here stand the numbers under them."""

import matplotlib.pyplot as plt
import pytest
import torch

from study.drawings import lessons


def test_measure_says_change_loss_and_accuracy_of_what_was_shown():
    x, y = torch.zeros(4, 3, 2, 2), torch.tensor([0, 0, 0, 1])
    shown = {"clean": x, "brighter": x + 2 / 255}
    table = lessons.measure(lambda images: torch.tensor([[0.0, -50.0]]).repeat(len(images), 1), x, y, shown)
    assert list(table.index) == ["clean", "brighter"]
    assert table["largest change (of 255)"].tolist() == [0, 2]
    assert table["accuracy (%)"].tolist() == [75, 75]
    assert table["mean loss"].tolist() == [12.5, 12.5]  # 50 for one image of four


def test_the_gap_of_running_means_is_in_deviations_of_main(tiny):
    model = tiny(norm="dual")
    for layer in (model.stem_norm["main"], model.stem_norm["aux"]):
        layer.running_mean.zero_()
    model.stem_norm["main"].running_var.fill_(4.0)
    model.stem_norm["aux"].running_mean.fill_(-3.0)
    gaps = lessons.statistics_gap(model)
    assert gaps[0] == pytest.approx(1.5) and len(gaps) == 20


def test_the_same_images_differ_between_branches_only_behind_the_first_layer(tiny, batch):
    model = tiny(norm="dual")
    gaps = lessons.statistics_gap(model, batch[0])
    assert gaps[0] == 0 and min(gaps[1:]) > 0

    first = model.blocks[0].norm1  # by hand: what arrives at the second batch norm
    arriving = {}
    for branch in ("main", "aux"):
        h = model.stem_act(model.stem_norm(model.stem(model.standardise(batch[0])), branch))
        arriving[branch] = model.blocks[0].conv1(h).mean(dim=(0, 2, 3))
    distance = (arriving["aux"] - arriving["main"]).abs() / first["main"].running_var.sqrt()
    assert gaps[1] == pytest.approx(distance.mean().item(), rel=1e-4)


def test_measuring_a_gap_leaves_no_hook_behind_even_if_it_fails(tiny, batch):
    model = tiny(norm="dual")
    lessons.statistics_gap(model, batch[0])
    with pytest.raises(ValueError, match="channel"):
        lessons.statistics_gap(model, batch[0][:, :1])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_accuracy_by_steps_counts_who_is_still_right():
    needed = {"pgd": torch.tensor([0, 1, 3, 3])}  # wrong already; fooled by step 1; never within 2 steps, twice
    figure = lessons.accuracy_by_steps(needed, 2, {"FGSM": 10.0})
    (line, level) = figure.axes[0].get_lines()
    assert line.get_ydata().tolist() == [75, 50, 50] and set(level.get_ydata()) == {10}
    plt.close(figure)


def test_a_class_may_be_called_by_dollars_and_is_shown_as_it_is_called():
    classes, x, y = ("$_$", "a$b$"), torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    logits = torch.eye(2)
    for figure in (
        lessons.attacked(lambda images: logits, x, y, {}, classes, eps=1),
        lessons.smoothed_targets(x, logits, y, logits, logits, classes),
    ):
        figure.canvas.draw()  # where a formula that is none would raise
        plt.close(figure)
    for axis in (figure.axes[2].xaxis, figure.axes[4].xaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == list(classes)


def test_fewer_images_than_a_figure_shows_are_shown_all():
    x, y = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    figure = lessons.attacked(lambda images: torch.eye(2), x, y, {"PGD": x}, ("a", "b"), eps=1)
    assert [len(panel.images) for panel in figure.axes] == [1] * 2 * 3
    plt.close(figure)
