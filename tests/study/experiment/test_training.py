"""Claims about learning: an update is Algorithm 1 written out, and a training is one function of its config."""

import copy
import math
from types import SimpleNamespace

import miniature
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlib import train
from advlib.attacks import pgd
from advlib.losses import als, cross_entropy
from advlib.resnet import resnet18
from study.data import pixels
from study.experiment import build, training
from study.experiment.evaluate import evaluate
from study.experiment.fast.parallel import ALONE, INIT_SCALE, Scaler
from study.machine.interrupt import Interrupted
from study.plan import catalogue
from study.plan.attacks import PAPER_COLUMNS, PGD_20
from study.plan.config import CHOICES

EPS, STEP_SIZE = 0.1, 0.03
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4


def small_net(norm: str = "shared", activation: str = "relu", width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return resnet18(4, width, activation, norm)


def batch(n: int = 6, dtype=torch.float32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator, dtype=dtype), torch.arange(n) % 4


def sgd(model, kind=torch.optim.SGD):
    return kind(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def attack(model, x, y):
    """Two steps of PGD through the auxiliary branch, statistics untouched."""

    def ascend(logits_fn, x, y):
        return pgd(logits_fn, x, y, eps=EPS, step_size=STEP_SIZE, steps=2)

    return train.craft(model, x, y, ascend)


class Diary(nn.Module):
    """A model that notes which branch it was asked for, and an optimiser's steps among them."""

    def __init__(self, model):
        super().__init__()
        self.model, self.events = model, []

    def forward(self, x, branch="main"):
        self.events.append((branch, x.detach().clone()))
        return self.model(x, branch)

    def optimizer(self):
        events = self.events

        class Noted(torch.optim.SGD):
            def step(self, closure=None):
                events.append("step")
                return super().step(closure)

        return Noted(self.model.parameters(), lr=LR)


def counters(model) -> dict[str, int]:
    return {name: int(t) for name, t in model.state_dict().items() if name.endswith("num_batches_tracked")}


# --- one update ---------------------------------------------------------------------------------------------------


class LongHand:
    """Algorithm 1 without advlib and without torch.optim. The released code's update: see tests/longhand.py."""

    def __init__(self, model):
        self.model = model
        self.buffers = {}

    def twins(self, x, y):
        """Line 9: PGD in evaluation mode through the auxiliary branch."""
        self.model.eval()
        x_adv = x
        for _ in range(2):
            x_adv = x_adv.detach().requires_grad_()
            logits = self.model(x_adv, branch="aux")
            (gradient,) = torch.autograd.grad(self.losses(logits, y).sum(), x_adv)
            x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = torch.minimum(torch.maximum(x_adv, x - EPS), x + EPS).clamp(0, 1)
        self.model.train()
        return x_adv

    def losses(self, logits, y):
        return logits.logsumexp(dim=1) - logits[torch.arange(len(y)), y]

    def descend(self, loss):
        parameters = list(self.model.named_parameters())
        gradients = torch.autograd.grad(loss, [p for _, p in parameters])
        with torch.no_grad():
            for (name, p), gradient in zip(parameters, gradients, strict=True):
                gradient = gradient + DECAY * p
                self.buffers[name] = MOMENTUM * self.buffers[name] + gradient if name in self.buffers else gradient
                p -= LR * self.buffers[name]

    def joint(self, x, y):
        x_adv = self.twins(x, y)
        clean = self.losses(self.model(x, branch="main"), y)
        adversarial = self.losses(self.model(x_adv, branch="aux"), y)
        loss = (clean.sum() + adversarial.sum()) / (2 * len(y))
        self.descend(loss)
        return loss.detach()


@pytest.mark.parametrize("norm", ["shared", "dual", "dual-except-shortcuts"])
def test_two_updates_equal_algorithm_1_written_out_in_double_precision(norm):
    model = small_net(norm).double()
    model.head.weight.data *= 0.05  # a sure net has gradients of nothing but rounding, and their signs are anybody's
    by_hand = LongHand(copy.deepcopy(model))
    optimizer = sgd(model)
    start = miniature.state(model)
    for k in range(2):
        x, y = batch(dtype=torch.float64, seed=k)
        loss, _ = train.train_step(model, optimizer, x, y, attack, cross_entropy)
        assert loss.item() == pytest.approx(by_hand.joint(x, y).item(), abs=1e-10)
    expected = by_hand.model.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=name)
        assert "standardise" in name or not torch.equal(value, start[name]), f"{name} did not move"


@pytest.mark.parametrize("branch, other", [("main", "aux"), ("aux", "main")])
def test_each_half_of_the_joint_update_teaches_its_own_batch_norms_only(branch, other):
    model = small_net("dual").double()
    x, y = batch(dtype=torch.float64)
    half = {"main": slice(0, 6), "aux": slice(6, 12)}[branch]
    train.train_step(model, sgd(model), x, y, attack, lambda logits, labels: cross_entropy(logits[half], labels[half]))
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(f".{branch}." in name for name in taught)
    assert not any(f".{other}." in name for name in taught)


def test_the_joint_update_takes_one_step_after_both_halves():
    diary = Diary(small_net("dual"))
    x, y = batch()
    twins = x.flip(0)
    train.train_step(diary, diary.optimizer(), x, y, lambda model, x, y: twins, cross_entropy)
    *halves, last = diary.events
    assert last == "step" and len(halves) == 2
    assert {branch: seen.tolist() for branch, seen in halves} == {"main": x.tolist(), "aux": twins.tolist()}


def test_the_published_update_takes_two_steps_the_adversarial_half_first():
    diary = Diary(small_net("dual"))
    x, y = batch()
    twins = x.flip(0)
    train.two_step_update(diary, diary.optimizer(), x, y, lambda model, x, y: twins, cross_entropy)
    first, step_1, second, step_2 = diary.events
    assert (step_1, step_2) == ("step", "step")
    assert (first[0], second[0]) == ("aux", "main")
    assert torch.equal(first[1], twins) and torch.equal(second[1], x)


def test_clean_training_takes_one_step_and_never_calls_the_attack():
    diary = Diary(small_net())
    x, y = batch()

    def forbidden(*arguments):
        raise AssertionError("attacked")

    loss, logits = train.clean_step(diary, diary.optimizer(), x, y, forbidden, cross_entropy)
    assert [event if event == "step" else event[0] for event in diary.events] == ["main", "step"]
    assert logits.shape == (6, 4) and loss.item() == pytest.approx(F.cross_entropy(logits, y).item())


@pytest.mark.parametrize("step", [train.train_step, train.two_step_update])
def test_a_step_returns_detached_loss_and_logits_clean_half_first(step):
    model = small_net("dual")
    x, y = batch()
    twins = torch.rand_like(x)
    before = copy.deepcopy(model)
    loss, logits = step(model, torch.optim.SGD(model.parameters(), lr=0.0), x, y, lambda *_: twins, cross_entropy)
    assert not loss.requires_grad and not logits.requires_grad
    torch.testing.assert_close(logits, torch.cat([before(x, "main"), before(twins, "aux")]).detach())
    assert loss.item() == pytest.approx(F.cross_entropy(logits, torch.cat([y, y])).item(), abs=1e-6)


@pytest.mark.parametrize("step", [train.train_step, train.two_step_update, train.clean_step])
def test_a_step_leaves_no_old_gradient_in_the_update(step):
    """Whatever gradients lay about (an attack's, a user's), the update is the same."""
    clean, littered = small_net(), small_net()
    for p in littered.parameters():
        p.grad = torch.full_like(p, 7.0)
    for model in (clean, littered):
        step(model, sgd(model), *batch(), attack, cross_entropy)
    assert miniature.same(miniature.state(clean), miniature.state(littered))


def test_an_update_that_is_not_the_published_one_leaves_the_idle_branch_as_it_was():
    """Not even weight decay moves it, whatever gradients lie about."""
    model = small_net("dual")
    idle = {name: p for name, p in model.named_parameters() if ".aux." in name}
    for p in idle.values():
        p.grad = torch.full_like(p, 7.0)
    before = {name: p.detach().clone() for name, p in idle.items()}
    train.clean_step(model, sgd(model), *batch(), attack, cross_entropy)
    assert before and miniature.same(before, idle)


def test_each_step_uses_the_loss_it_is_given_on_both_halves():
    model = small_net("dual")
    x, y = batch()
    loss, logits = train.train_step(model, sgd(model), x, y, attack, lambda z, labels: als(z, labels, alpha=0.3))
    assert loss.item() == pytest.approx(als(logits, torch.cat([y, y]), alpha=0.3).item(), abs=1e-6)


# --- crafting and statistics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["shared", "dual", "dual-except-shortcuts"])
@pytest.mark.parametrize("branch", ["main", "aux"])
def test_crafting_in_evaluation_mode_moves_no_statistic_and_restores_every_mode(norm, branch):
    model = small_net(norm).train()
    model.blocks[2].norm1.eval()  # somebody froze one layer
    modes, before = {m: m.training for m in model.modules()}, miniature.state(model)
    x, y = batch()
    x_adv = train.craft(model, x, y, lambda f, x, y: pgd(f, x, y, eps=EPS, step_size=EPS, steps=2), branch=branch)
    assert not torch.equal(x_adv, x)
    assert miniature.same(miniature.state(model), before)
    assert {m: m.training for m in model.modules()} == modes
    assert all(p.grad is None for p in model.parameters())


def test_crafting_in_train_mode_moves_the_attacked_branch_once_a_pass():
    model = small_net("dual").train()
    train.craft(
        model, *batch(), lambda f, x, y: pgd(f, x, y, eps=EPS, step_size=EPS, steps=3), branch="main", mode="train"
    )
    assert {n for name, n in counters(model).items() if ".main." in name} == {3}
    assert {n for name, n in counters(model).items() if ".aux." in name} == {0}


def test_one_corrected_advprop_step_counts_one_batch_in_every_batch_norm():
    model = small_net("dual").train()
    train.train_step(model, sgd(model), *batch(), attack, cross_entropy)
    assert len(counters(model)) == 40 and set(counters(model).values()) == {1}


# --- learning rate ------------------------------------------------------------------------------------------------


def rates(config, data=None) -> list[float]:
    """The rate that the optimiser had in every step of a training that learns nothing."""
    seen = []

    def step(model, optimizer, x, y, attack, loss_fn, scaler):
        seen.extend(group["lr"] for group in optimizer.param_groups)
        return torch.tensor(1.0), torch.zeros(len(y), 4)

    miniature.fit(config, data or miniature.dataset(4, 4), model=nn.Linear(1, 1), step=step)
    return seen


def test_the_published_rates_are_a_cosine_over_80_epochs_an_epoch_late_and_its_last_value_for_20_more():
    """What torch's CosineAnnealingLR(T_max=80) gives where it is asked after epoch k for epoch k, up to k = 79."""
    seen = rates(miniature.config(epochs=100, batch_size=4, lr=0.1, schedule="published"))
    golden = {2: 0.0999614518, 21: 0.0853553391, 41: 0.05, 61: 0.0146446609, 79: 1.541333e-4, 80: 3.854819e-5}
    assert len(seen) == 100 and seen[0] == seen[1] == 0.1
    for epoch, rate in golden.items():
        assert seen[epoch] == pytest.approx(rate, rel=1e-6), epoch
    assert seen[80:] == [seen[80]] * 20


def test_a_short_published_training_spends_the_same_share_of_its_steps_at_each_rate():
    """5 epochs of 40 steps: two steps a rate, as 100 epochs have two steps of 200 a rate."""
    short = rates(miniature.config(epochs=5, batch_size=4, lr=0.1, schedule="published"), miniature.dataset(160, 4))
    long = rates(miniature.config(epochs=100, batch_size=4, lr=0.1, schedule="published"), miniature.dataset(8, 4))
    assert short == long and len(short) == 200
    assert short[160:] == pytest.approx([3.854819e-5] * 40, rel=1e-6)


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
def test_a_training_of_one_step_moves_the_weights(schedule):
    config, data = miniature.config(epochs=1, schedule=schedule), miniature.dataset(16, 4)
    trained, _ = miniature.fit(config, data)
    assert not torch.equal(trained.stem.weight, build.build_model(config, data).stem.weight)


def test_the_cosine_falls_every_step_from_the_peak_over_all_epochs():
    seen = rates(miniature.config(epochs=2, batch_size=4, lr=0.2), miniature.dataset(8, 4))
    assert seen == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])


def test_one_cycle_rises_for_a_fifth_and_falls_in_a_line_to_nothing():
    seen = rates(miniature.config(epochs=10, batch_size=4, lr=0.4, schedule="one-cycle"))
    assert seen[2:] == pytest.approx([0.4 * (1 - e / 10) / 0.8 for e in range(2, 10)])
    assert seen[0] < seen[1] < seen[2] == max(seen) == pytest.approx(0.4)
    assert training.learning_rate("one-cycle", 1.0, 10) == pytest.approx(0)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown schedule 'linear'.*cosine"):
        training.learning_rate("linear", 0.5, 10)


# --- the loop -----------------------------------------------------------------------------------------------------


class Watch:
    """A step that learns nothing and notes what it was shown."""

    def __init__(self):
        self.x, self.y = [], []

    def __call__(self, model, optimizer, x, y, attack, loss_fn, scaler):
        self.x.append(x)
        self.y.append(y)
        return torch.tensor(0.5), F.one_hot(y * 0, 4).float()  # predicts class 0


def test_an_epoch_shows_every_image_once_as_pixels_with_its_own_label_in_a_new_order():
    data, watch = miniature.dataset(32, 4), Watch()
    miniature.fit(
        miniature.config(epochs=2, batch_size=8, augmentation="none"), data, model=nn.Linear(1, 1), step=watch
    )
    assert len(watch.x) == 8 and {len(x) for x in watch.x} == {8}
    known = {
        image.numpy().tobytes(): int(label) for image, label in zip(data.train_images, data.train_labels, strict=True)
    }
    orders = []
    for epoch in (slice(0, 4), slice(4, 8)):
        x, y = torch.cat(watch.x[epoch]), torch.cat(watch.y[epoch])
        assert x.dtype == torch.float32 and 0 <= x.min() < x.max() <= 1
        shown = [(255 * image).round().to(torch.uint8).contiguous().numpy().tobytes() for image in x]
        assert sorted(shown) == sorted(known)
        assert [known[image] for image in shown] == y.tolist()
        torch.testing.assert_close(255 * x, (255 * x).round(), rtol=0, atol=1e-4)
        orders.append(shown)
    assert orders[0] != orders[1]


def test_an_incomplete_batch_is_left_out():
    watch = Watch()
    miniature.fit(miniature.config(epochs=1, batch_size=8), miniature.dataset(20, 4), model=nn.Linear(1, 1), step=watch)
    assert [len(x) for x in watch.x] == [8, 8]


def test_images_are_augmented_with_the_loops_generator():
    watch, seen = Watch(), []

    def darken(images, generator):
        seen.append((images.dtype, generator.get_state().tolist()))
        return images * 0

    miniature.fit(miniature.config(epochs=1), miniature.dataset(), model=nn.Linear(1, 1), step=watch, augment=darken)
    assert all(x.abs().max() == 0 for x in watch.x)
    assert [dtype for dtype, _ in seen] == [torch.uint8] * 4


def test_the_curve_has_one_entry_an_epoch_with_the_means_of_its_batches():
    data = miniature.dataset(32, 4)
    _, curve = miniature.fit(miniature.config(epochs=2, batch_size=8), data, model=nn.Linear(1, 1), step=Watch())
    share = (data.train_labels == 0).float().mean().item()
    assert [entry["epoch"] for entry in curve] == [1, 2]
    for entry in curve:
        assert entry["loss"] == 0.5 and entry["clean_accuracy"] == pytest.approx(share)
        assert "adversarial_accuracy" not in entry and entry["seconds"] >= 0


def test_the_curve_tells_clean_and_adversarial_accuracy_apart():
    def step(model, optimizer, x, y, attack, loss_fn, scaler):
        right, wrong = F.one_hot(y, 4).float(), F.one_hot((y + 1) % 4, 4).float()
        return torch.tensor(0.5), torch.cat([right, wrong])

    _, curve = miniature.fit(miniature.config(epochs=1), miniature.dataset(), model=nn.Linear(1, 1), step=step)
    assert (curve[0]["clean_accuracy"], curve[0]["adversarial_accuracy"]) == (1.0, 0.0)


def test_the_optimiser_has_the_configs_momentum_and_decay():
    seen = {}

    def step(model, optimizer, x, y, attack, loss_fn, scaler):
        seen.update(optimizer.param_groups[0])
        return torch.tensor(0.5), torch.zeros(len(y), 4)

    miniature.fit(
        miniature.config(momentum=0.7, weight_decay=0.003), miniature.dataset(), model=nn.Linear(1, 1), step=step
    )
    assert (seen["momentum"], seen["weight_decay"], seen["dampening"], seen["nesterov"]) == (0.7, 0.003, 0, False)


ADVERSARIAL = {"adversarial": True, "norm": "dual", "train_random_start": True}


@pytest.mark.parametrize("changes", [{}, ADVERSARIAL], ids=["clean", "adversarial"])
def test_the_same_seed_gives_the_same_weights_whatever_the_global_generator_and_another_seed_others(changes):
    data = miniature.dataset()
    torch.manual_seed(1)
    first, _ = miniature.fit(miniature.config(**changes), data)
    torch.manual_seed(2)
    again, _ = miniature.fit(miniature.config(**changes), data)
    other, _ = miniature.fit(miniature.config(**changes, seed=1), data)
    assert miniature.same(miniature.state(first), miniature.state(again))
    assert not miniature.same(miniature.state(first), miniature.state(other))


@pytest.mark.parametrize("protocol", catalogue.PROTOCOLS)
@pytest.mark.parametrize("key", catalogue.rows())
def test_a_training_cut_off_before_every_one_of_its_steps_ends_as_if_it_had_not_been(tmp_path, key, protocol):
    """Every row of the paper, two epochs of three steps or two: the last batch is kept or not."""
    config = catalogue.config(key, protocol=protocol).change(
        **{name: getattr(miniature.config(), name) for name in ("dataset", "width", "batch_size", "precision")},
        epochs=2,
    )
    data, steps = miniature.dataset(40), 6 if protocol == "published" else 4
    whole, curve = miniature.fit(config, data)
    resumed, resumed_curve = None, []
    for cut in range(steps + 1):
        answers = iter([False, True])
        try:
            resumed, resumed_curve = miniature.fit(
                config, data, checkpoint=tmp_path / "c.pt", stop=lambda answers=answers: next(answers)
            )
        except Interrupted:
            assert cut < steps - 1
            continue
        break
    assert cut == steps - 1, "a step between two cuts"
    assert miniature.same(miniature.state(resumed), miniature.state(whole))
    timeless = [{name: value for name, value in entry.items() if name != "seconds"} for entry in curve]
    assert [{name: value for name, value in entry.items() if name != "seconds"} for entry in resumed_curve] == timeless


@pytest.mark.parametrize("changes", [{}, ADVERSARIAL], ids=["clean", "adversarial"])
@pytest.mark.parametrize("k", [1, 2])
def test_a_training_cut_off_and_resumed_ends_as_if_it_had_not_been(tmp_path, changes, k):
    data, config = miniature.dataset(), miniature.config(epochs=3, **changes)
    whole, curve = miniature.fit(config, data)
    cut = miniature.cut_off(config, data, checkpoint=tmp_path / "c.pt", after=k)
    assert not miniature.same(miniature.state(cut), miniature.state(whole))
    resumed, resumed_curve = miniature.fit(config, data, checkpoint=tmp_path / "c.pt")
    assert miniature.same(miniature.state(resumed), miniature.state(whole))
    timeless = [{name: value for name, value in entry.items() if name != "seconds"} for entry in curve]
    assert [{name: value for name, value in entry.items() if name != "seconds"} for entry in resumed_curve] == timeless


@pytest.mark.parametrize("changes", [{}, ADVERSARIAL], ids=["clean", "adversarial"])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 6])  # of four an epoch: at its beginning, in its middle, in the next one
def test_a_training_asked_to_stop_saves_where_it_is_and_ends_as_if_it_had_not_been(tmp_path, changes, steps):
    data, config = miniature.dataset(), miniature.config(epochs=3, **changes)
    whole, curve = miniature.fit(config, data)
    answers = iter([False] * steps + [True])
    with pytest.raises(Interrupted, match=f"after {steps % 4} of 4 steps of epoch {steps // 4 + 1}: run it again"):
        miniature.fit(config, data, checkpoint=tmp_path / "c.pt", stop=lambda: next(answers))
    asked = []
    resumed, resumed_curve = miniature.fit(config, data, checkpoint=tmp_path / "c.pt", stop=lambda: asked.append(1))
    assert len(asked) == 12 - steps, "no step is done twice"
    assert miniature.same(miniature.state(resumed), miniature.state(whole))
    timeless = [{name: value for name, value in entry.items() if name != "seconds"} for entry in curve]
    assert [{name: value for name, value in entry.items() if name != "seconds"} for entry in resumed_curve] == timeless


def test_a_finished_training_is_not_repeated(tmp_path):
    data, config, watch = miniature.dataset(), miniature.config(), Watch()
    done, curve = miniature.fit(config, data, checkpoint=tmp_path / "c.pt")
    again, same_curve = miniature.fit(config, data, checkpoint=tmp_path / "c.pt", step=watch)
    assert not watch.x and same_curve == curve
    assert miniature.same(miniature.state(done), miniature.state(again))


def test_evaluating_in_between_changes_nothing():
    data, config = miniature.dataset(), miniature.config(epochs=1, **ADVERSARIAL)
    plain, _ = miniature.fit(config, data)

    def step_and_look(model, *arguments):
        result = train.train_step(model, *arguments)
        evaluate({"true": model}, data.test_images, data.test_labels, [*PAPER_COLUMNS, PGD_20], sweep_size=10)
        return result

    watched, _ = miniature.fit(config, data, step=step_and_look)
    assert miniature.same(miniature.state(plain), miniature.state(watched))


def test_training_overfits_one_batch_and_the_running_statistics_agree():
    data = miniature.dataset(16, 4)
    config = miniature.config(epochs=40, width=8, augmentation="none", adversarial=True, train_eps=2 / 255, lr=0.1)
    model, curve = miniature.fit(config, data)
    assert (curve[-1]["clean_accuracy"], curve[-1]["adversarial_accuracy"]) == (1.0, 1.0)
    assert curve[-1]["loss"] < 0.1 < curve[0]["loss"]
    model.eval()
    assert (model(pixels.to_pixels(data.train_images)).argmax(1) == data.train_labels).all()


def test_a_model_handed_over_in_evaluation_mode_trains_all_the_same():
    data, config = miniature.dataset(), miniature.config(epochs=1)
    expected, _ = miniature.fit(config, data)
    model, _ = miniature.fit(
        config, data, model=build.build_model(config, data).to(memory_format=torch.channels_last).eval()
    )
    assert miniature.same(miniature.state(model), miniature.state(expected))


def test_bfloat16_training_keeps_weights_and_statistics_in_float32_and_learns():
    data = miniature.dataset(16, 4)
    config = miniature.config(epochs=30, width=8, augmentation="none")
    model, curve = miniature.fit(config, data, precision=torch.bfloat16)
    floating = [t for t in model.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floating} == {torch.float32}
    assert curve[-1]["clean_accuracy"] == 1.0
    exact, _ = miniature.fit(config, data)
    assert not miniature.same(miniature.state(model), miniature.state(exact))  # it did compute in bfloat16


# --- float16 ------------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def gently(logits, labels):
    """Six images of a network of random weights would have gradients too large for the scale to begin with."""
    return 1e-3 * cross_entropy(logits, labels)


@pytest.mark.parametrize("step", [train.train_step, train.two_step_update, train.clean_step])
def test_a_step_in_float16_is_nearly_that_of_double_precision(step):
    moved = {}
    for wide, precision in ((torch.float64, None), (torch.float32, torch.float16)):
        model, (x, y) = small_net("dual").to(wide), batch()
        before, sgd = miniature.state(model), torch.optim.SGD(model.parameters(), lr=0.01)
        with torch.autocast("cpu", precision or torch.float16, enabled=precision is not None, cache_enabled=False):
            step(model, sgd, x.to(wide), y, lambda model, x, y: x.flip(0), gently, Scaler(CPU, precision, ALONE))
        moved[wide] = torch.cat([(p.detach() - before[n]).flatten().double() for n, p in model.named_parameters()])
    exact, half = moved.values()
    assert exact.norm() > 0 and (half - exact).norm() < 0.3 * exact.norm()


def test_a_gradient_that_float16_does_not_have_moves_the_weight_where_the_loss_is_scaled():
    moved = []
    for scaler in (train.UNSCALED, Scaler(CPU, torch.float16, ALONE)):
        weight = nn.Parameter(torch.zeros(1, 3))
        with torch.autocast("cpu", torch.float16):
            loss = 1e-9 * F.linear(torch.ones(1, 3), weight).float().sum()
        train.update(torch.optim.SGD([weight], lr=1.0), loss, scaler)
        moved.append(weight.detach().flatten().tolist())
    assert moved == [[0.0] * 3, pytest.approx([-1e-9] * 3, rel=1e-2)]


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_is_halved():
    model = small_net()
    optimizer, scaler, before = sgd(model), Scaler(CPU, torch.float16, ALONE), miniature.state(model)

    def moved(factor) -> list[bool]:
        with torch.autocast("cpu", torch.float16, cache_enabled=False):
            train.clean_step(model, optimizer, *batch(), attack, lambda z, y: factor * gently(z, y), scaler)
        return [not torch.equal(p, before[name]) for name, p in model.named_parameters()]

    assert not any(moved(1e30)) and not optimizer.state and scaler.get_scale() == INIT_SCALE / 2
    assert all(moved(1.0)) and scaler.get_scale() == INIT_SCALE / 2


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float64])
def test_in_any_other_precision_nothing_is_scaled_or_skipped(precision):
    weight = nn.Parameter(torch.ones(1))
    scaler, loss = Scaler(CPU, precision, ALONE), 3 * weight.sum()
    assert scaler.scale(loss) is loss and scaler.state_dict() == {}
    train.update(torch.optim.SGD([weight], lr=1.0), float("inf") * loss, scaler)
    assert not weight.isfinite()


def test_a_training_in_float16_that_was_cut_off_ends_as_if_it_had_not_been_and_so_does_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "study.experiment.fast.parallel.INIT_SCALE", 2.0**60
    )  # the first steps are skipped until it is small enough
    data, config, path = miniature.dataset(), miniature.config(epochs=3, **ADVERSARIAL), tmp_path / "c.pt"
    half = {"precision": torch.float16, "checkpoint": path}
    whole, _ = miniature.fit(config, data, precision=torch.float16, checkpoint=tmp_path / "whole.pt")
    answers = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        miniature.fit(config, data, **half, stop=lambda: next(answers))
    assert torch.load(path, weights_only=True)["scaler"]["scale"] == 2.0**55, "a step, a half"
    resumed, _ = miniature.fit(config, data, **half)
    assert miniature.same(miniature.state(resumed), miniature.state(whole))
    ends = [torch.load(file, weights_only=True)["scaler"] for file in (path, tmp_path / "whole.pt")]
    assert ends[0] == ends[1] and ends[0]["scale"] < 2.0**55


def test_a_checkpoint_from_before_there_was_a_scaler_is_gone_on_from(tmp_path):
    data, config, path = miniature.dataset(), miniature.config(), tmp_path / "c.pt"
    whole, _ = miniature.fit(config, data)
    miniature.cut_off(config, data, checkpoint=path)
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "scaler"}, path)
    resumed, _ = miniature.fit(config, data, checkpoint=path)
    assert miniature.same(miniature.state(resumed), miniature.state(whole))


# --- checkpoints --------------------------------------------------------------------------------------------------


class SlowSteps:
    """Steps of 25 seconds on a clock of their own, the last of them before a kill if ``killed_after`` says so."""

    def __init__(self, killed_after=None):
        self.now, self.killed_after = 0, killed_after

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, *arguments):
        self.now += 25
        if self.now == 25 * (self.killed_after or 0):
            raise KeyboardInterrupt
        return train.train_step(*arguments)


def at(checkpoint) -> tuple[int, int]:
    """How many epochs are over in a checkpoint, and how many steps of the next one."""
    state = torch.load(checkpoint, weights_only=True)
    return len(state["curve"]), state["begun"]["steps"] if state["begun"] else 0


@pytest.mark.parametrize("seconds", ["", "75"])  # a minute, and what is over at the end of a step
def test_a_training_saves_once_a_minute_or_as_told_also_within_an_epoch_and_at_its_end(tmp_path, monkeypatch, seconds):
    slow, save, saved = SlowSteps(), training.save_checkpoint, []

    def noted(path, *arguments):
        save(path, *arguments)
        saved.append((slow.now, *at(path)))

    monkeypatch.setenv(training.SAVE_EVERY, seconds)
    monkeypatch.setattr(training, "time", slow)
    monkeypatch.setattr(training, "save_checkpoint", noted)
    miniature.fit(
        miniature.config(epochs=3, **ADVERSARIAL), miniature.dataset(), step=slow, checkpoint=tmp_path / "c.pt"
    )
    assert saved == [(75, 0, 3), (150, 1, 2), (225, 2, 1), (300, 3, 0)]  # seconds; epochs and steps, of four an epoch


@pytest.mark.parametrize("steps, reached", [(5, (0, 3)), (8, (1, 2)), (12, (2, 1))])
def test_a_training_killed_some_steps_after_it_saved_ends_as_if_it_had_not_been(tmp_path, monkeypatch, steps, reached):
    data, config, path = miniature.dataset(), miniature.config(epochs=3, **ADVERSARIAL), tmp_path / "c.pt"
    whole, _ = miniature.fit(config, data)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        slow = SlowSteps(killed_after=steps)
        patch.setattr(training, "time", slow)
        miniature.fit(config, data, step=slow, checkpoint=path)
    assert at(path) == reached
    resumed, curve = miniature.fit(config, data, checkpoint=path)
    assert miniature.same(miniature.state(resumed), miniature.state(whole)) and len(curve) == 3


def test_a_loss_that_is_not_finite_replaces_no_good_checkpoint_within_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv(training.SAVE_EVERY, "0")
    data, config, path = miniature.dataset(), miniature.config(), tmp_path / "c.pt"
    whole, _ = miniature.fit(config, data)
    factors = iter([1.0, 1.0, float("nan"), 1.0])
    with pytest.raises(FloatingPointError, match="in epoch 1: lower lr"):
        miniature.fit(config, data, checkpoint=path, loss_fn=lambda z, y: next(factors) * cross_entropy(z, y))
    assert at(path) == (0, 2)
    resumed, _ = miniature.fit(config, data, checkpoint=path)
    assert miniature.same(miniature.state(resumed), miniature.state(whole))


@pytest.mark.parametrize("text", ["often", "-1", "nan"])
def test_an_impossible_time_between_checkpoints_is_refused(monkeypatch, text):
    monkeypatch.setenv(training.SAVE_EVERY, text)
    with pytest.raises(ValueError, match=f"ADVLIB_SAVE_EVERY {text}: after how many seconds.*a number from 0 up"):
        miniature.fit(miniature.config(), miniature.dataset())


# --- bad input and mishaps ----------------------------------------------------------------------------------------


def test_images_that_are_no_bytes_are_refused_and_not_divided_by_255_twice():
    data, config = miniature.dataset(), miniature.config(epochs=1)
    floats = SimpleNamespace(**{**vars(data), "train_images": data.train_images / 255})  # a Dataset would refuse them
    with pytest.raises(TypeError, match="images are torch.float32: give uint8 from 0 to 255"):
        miniature.fit(config, floats, model=build.build_model(config, data))
    with pytest.raises(TypeError, match="images are torch.float32: give uint8 from 0 to 255"):
        evaluate({"true": small_net()}, data.test_images / 255, data.test_labels, [*PAPER_COLUMNS], sweep_size=10)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    data, config, path = miniature.dataset(), miniature.config(), tmp_path / "c.pt"
    miniature.cut_off(config, data, checkpoint=path, checksum="sha256:then")
    with pytest.raises(ValueError, match=r"another training \(data 'sha256:then', now 'sha256:now'\): delete it"):
        miniature.fit(config, data, checkpoint=path, checksum="sha256:now")


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=65 is larger than the 64 training images: lower it"):
        miniature.fit(miniature.config(batch_size=65), miniature.dataset(64))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_earlier_checkpoint(tmp_path, poison):
    data, config, path = miniature.dataset(), miniature.config(epochs=3), tmp_path / "c.pt"
    miniature.cut_off(config, data, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FloatingPointError, match=r"epoch 2: lower lr=0.05"):
        miniature.fit(config, data, checkpoint=path, loss_fn=lambda logits, y: cross_entropy(logits, y) * poison)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_config_is_refused_by_the_fields_that_differ(tmp_path):
    data, path = miniature.dataset(), tmp_path / "c.pt"
    miniature.fit(miniature.config(), data, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"another training \(lr 0.05, now 0.02; seed 0, now 4\): delete") as error:
        miniature.fit(miniature.config(lr=0.02, seed=4), data, checkpoint=path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "what, name, value, other",
    [("science version", "SCIENCE_VERSION", -1, None), ("precision", None, None, torch.bfloat16)],
    ids=["science version", "precision"],
)
def test_a_checkpoint_of_another_science_version_or_precision_is_refused(
    tmp_path, monkeypatch, what, name, value, other
):
    """Else one run would be half of each."""
    data, config, path = miniature.dataset(), miniature.config(), tmp_path / "c.pt"
    miniature.cut_off(config, data, checkpoint=path)
    if name:
        monkeypatch.setattr(training, name, value)
    with pytest.raises(ValueError, match="delete it, or move it away") as error:
        miniature.fit(config, data, checkpoint=path, precision=other)
    assert what.replace(" ", "_") in str(error.value)


class Foreign:
    """A class that a checkpoint must not be able to bring to life."""


@pytest.mark.parametrize("damage", ["empty", "half", "text", "another file of torch", "a foreign class"])
def test_a_damaged_checkpoint_is_refused_with_the_remedy_and_not_deleted(tmp_path, damage):
    data, config, path = miniature.dataset(), miniature.config(), tmp_path / "c.pt"
    miniature.cut_off(config, data, checkpoint=path)
    if damage == "another file of torch":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "a foreign class":
        torch.save({"origin": Foreign()}, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"not a checkpoint"}[damage])
    with pytest.raises(ValueError, match="(?s)checkpoint .* is damaged .*delete it"):
        miniature.fit(config, data, checkpoint=path)
    assert path.exists()


@pytest.mark.parametrize("where", ["while writing", "while renaming"])
def test_a_full_disk_is_an_error_that_keeps_the_earlier_checkpoint_and_leaves_no_partial_file(
    tmp_path, monkeypatch, where
):
    data, config, path = miniature.dataset(), miniature.config(epochs=2), tmp_path / "c.pt"
    miniature.cut_off(config, data, checkpoint=path)
    before = path.read_bytes()

    def full(state, target, *rest):
        if where == "while writing":
            with open(target, "wb") as file:
                file.write(b"half of it")
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr("torch.save" if where == "while writing" else "os.replace", full)
        with pytest.raises(OSError, match=f"cannot write {path} .*No space left on device.*free some space"):
            miniature.fit(config, data, checkpoint=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
    resumed, _ = miniature.fit(config, data, checkpoint=path)
    whole, _ = miniature.fit(config, data)
    assert miniature.same(miniature.state(resumed), miniature.state(whole))


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write .*c.pt .*choose another folder"):
        miniature.fit(miniature.config(), miniature.dataset(), checkpoint=tmp_path / "file" / "c.pt")
    assert (tmp_path / "file").read_text() == "in the way"
