"""Claims about the published protocol: each quirk of the released code is there, by its own switch, and matters.

The numbers in the names are those of the points in the chapter "As published".
"""

import copy
import math

import miniature
import pytest
import torch
import torch.nn.functional as F

from advlib import train
from study.experiment import build, run
from study.plan import catalogue
from study.plan.attacks import suite

SWITCHES = {  # field of training -> (published, corrected)
    "attack_space": ("standardised", "pixels"),
    "attack_mode": ("train", "eval"),
    "attack_branch": ("main", "aux"),
    "norm": ("dual-except-shortcuts", "dual"),
    "update": ("two-steps", "joint"),
    "loss": ("als-published", "als"),
    "schedule": ("published", "cosine"),
    "augmentation": ("published", "crop-flip"),
    "last_batch": ("kept", "dropped"),
    "head_bias": ("torch", "zero"),
    "precision": ("float32", "auto"),
}


def published(**changes):
    """ALS + SAT + AdvProp as published, in miniature."""
    row = catalogue.config("als-sat-advprop", protocol="published")
    small = miniature.config().to_dict()
    sizes = {
        name: small[name] for name in ("dataset", "width", "epochs", "batch_size", "sweep_size", "lr", "precision")
    }
    return row.change(**{**sizes, **changes})


def batch(n: int = 8):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 4


def trained(config):
    """A model whose branches have learnt different things."""
    return miniature.fit(config, miniature.dataset())[0]


def test_the_switches_of_this_file_are_all_that_the_protocols_differ_by():
    both = [
        catalogue.config("als-sat-advprop", protocol=protocol, budget="lite", schedule=schedule)
        for protocol, schedule in (("published", None), ("corrected", "cosine"))
    ]
    assert both[0].differences(both[1]) == SWITCHES


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_of_training_changes_what_is_learnt(switch):
    """Against a switch that is stored in the config and read by nobody."""
    data = miniature.dataset(train_size=40)  # and the last batch of 16 has 8
    other = "bf16" if switch == "precision" else SWITCHES[switch][1]  # "auto" is float32 on many a machine
    on, off = (published(precision="float32").change(**{switch: value}) for value in (SWITCHES[switch][0], other))
    dtypes = [run.training_dtype(config.precision, torch.device("cpu")) for config in (off, on)]
    (changed, _), (unchanged, _) = (
        miniature.fit(config, data, precision=dtype) for config, dtype in zip((off, on), dtypes, strict=True)
    )
    assert not torch.equal(changed.head.weight, unchanged.head.weight)


def naive_attack(model, x, y, *, eps, step_size, steps, branch, standardise: bool):
    """The training attack written out: PGD in the mode that the model is in, plain cross-entropy, clamped to [0, 1]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.45, 0.44, 0.43), (0.20, 0.21, 0.22)))
    start = (x - mean) / std if standardise else x
    adv = start.clone()
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        seen = adv if standardise else (adv - mean) / std
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.classify(seen, branch), y, reduction="sum"), adv)
        adv = adv.detach() + step_size * gradient.sign()
        adv = (start + (adv - start).clamp(-eps, eps)).clamp(0, 1)
    return adv * std + mean if standardise else adv


@pytest.mark.parametrize("space", ["standardised", "pixels"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("branch", ["main", "aux"])
def test_1_3_4_the_training_attack_is_the_one_that_its_three_switches_name(space, mode, branch):
    config = published(attack_space=space, attack_mode=mode, attack_branch=branch, train_eps=0.1, train_step_size=0.06)
    model = trained(config).train()
    x, y = batch()
    naive = copy.deepcopy(model).train(mode == "train")
    expected = naive_attack(
        naive, x, y, eps=0.1, step_size=0.06, steps=2, branch=branch, standardise=space == "standardised"
    )
    others = naive_attack(
        naive,
        x,
        y,
        eps=0.1,
        step_size=0.06,
        steps=2,
        branch="aux" if branch == "main" else "main",
        standardise=space == "standardised",
    )
    x_adv = build.training_attack(config)(model, x, y)
    close = ((x_adv - expected).abs() < 1e-5).float().mean().item()
    assert close > 0.995  # a sign may differ where a gradient is nothing but rounding
    assert ((x_adv - others).abs() < 1e-5).float().mean().item() < close - 0.02


def test_1_standardised_images_are_clamped_to_0_and_1_even_with_eps_0():
    model = trained(published())
    x, y = batch()
    clamped = model.standardise(build.training_attack(published(train_eps=0.0))(model, x, y))
    torch.testing.assert_close(clamped, model.standardise(x).clamp(0, 1), rtol=0, atol=1e-5)
    assert (clamped - model.standardise(x)).abs().gt(0.01).float().mean() > 0.5  # "moves most entries"
    untouched = build.training_attack(published(train_eps=0.0, attack_space="pixels"))(model, x, y)
    assert torch.equal(untouched, x)


def counters(model) -> dict[str, set[int]]:
    counts: dict[str, set[int]] = {}
    for name, count in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            kind = "shortcut" if "shortcut" in name else "aux" if ".aux." in name else "main"
            counts.setdefault(kind, set()).add(int(count))
    return counts


def test_3_4_5_6_one_published_advprop_step_counts_3_batches_in_main_1_in_aux_4_in_the_shortcuts():
    config = published()
    model = build.build_model(config, miniature.dataset()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = build.LOSSES[config.loss](config.smoothing)
    build.STEPS[config.update](model, optimizer, *batch(), build.training_attack(config), loss_fn)
    assert counters(model) == {"main": {3}, "aux": {1}, "shortcut": {4}}


def test_5_seventeen_of_twenty_batch_norms_are_dual():
    names = build.build_model(published(), miniature.dataset()).state_dict()
    aux = [name for name in names if name.endswith(".aux.running_mean")]
    single = [name for name in names if name.endswith("running_mean") and ".aux." not in name and ".main." not in name]
    assert (len(aux), len(single)) == (17, 3) and all("shortcut" in name for name in single)


def test_6_the_published_update_is_two_steps_and_rows_without_twins_take_their_one():
    assert build.STEPS["two-steps"] is train.two_step_update and build.STEPS["joint"] is train.train_step


def test_7_the_published_als_adds_1e_8_and_stops_smoothing_what_is_far_below():
    logits = torch.tensor([[30.0, 0.0, -5.0, -6.0]], requires_grad=True)
    labels = torch.tensor([0])
    gradients = {}
    for name in ("als", "als-published"):
        loss = build.LOSSES[name](0.02)(logits, labels)
        (gradients[name],) = torch.autograd.grad(loss, logits)
    assert gradients["als"][0, 3].item() == pytest.approx(-0.02, rel=1e-4)
    assert abs(gradients["als-published"][0, 3].item()) < 1e-6
    expected = -(0.98 * torch.log(logits.softmax(1)[0, 0] + 1e-8) + 0.02 * torch.log(logits.softmax(1)[0, 3] + 1e-8))
    assert build.LOSSES["als-published"](0.02)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_8_the_surrogate_gradient_is_in_the_training_attack_and_in_the_update():
    """The same weights with plain ReLUs are attacked to other images and take another step."""
    data, config = miniature.dataset(), published()
    x, y = batch()
    fixed, results = torch.zeros_like(x), {}  # the same twins for both, so that only the update can differ
    for activation in ("surrogate-relu", "relu"):
        model = build.build_model(config, data, activation=activation).train()
        attack = build.training_attack(config.change(train_step_size=0.06))
        x_adv = attack(model, x, y)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train.two_step_update(model, optimizer, x, y, lambda *_: fixed, build.LOSSES[config.loss](config.smoothing))
        results[activation] = (x_adv, model.stem.weight)
    assert not torch.equal(results["surrogate-relu"][0], results["relu"][0])
    assert not torch.equal(results["surrogate-relu"][1], results["relu"][1])


def by_name(**model) -> dict:
    return {attack.name: attack for attack in suite(**model)}


@pytest.mark.parametrize("surrogate", [True, False])
@pytest.mark.parametrize("dual", [True, False])
def test_1_2_4_8_the_published_rule_of_evaluation_has_its_four_switches_on_and_the_corrected_none(dual, surrogate):
    attacks = by_name(dual=dual, surrogate=surrogate)
    for column in catalogue.COLUMNS:
        rule, corrected = attacks[f"published:{column}"], attacks[f"corrected:{column}"]
        assert (rule.space, rule.statistics) == ("standardised", "batch")
        assert rule.gradient == ("surrogate" if surrogate else "true")
        assert rule.branch == rule.through == "main" and not rule.random_start and rule.restarts == 1
        assert (corrected.space, corrected.statistics, corrected.gradient) == ("pixels", "running", "true")
        same = ("method", "eps", "step_size", "steps", "random_start", "restarts", "images")
        assert all(getattr(rule, name) == getattr(corrected, name) for name in same)


@pytest.mark.parametrize("rule", ["published", "corrected"])
def test_9_pgd_0_5_has_both_step_sizes_the_headers_and_the_codes(rule):
    attacks = by_name(dual=False, surrogate=False)
    header, code = attacks[f"{rule}:pgd-0.5"], attacks[f"{rule}:pgd-0.5-code"]
    assert (header.eps, header.step_size, header.steps) == (0.5, 0.5, 2)
    assert (code.eps, code.step_size, code.steps) == (0.5, 2 / 255, 2)
    assert code.reach == pytest.approx(4 / 255) and header.reach == 0.5


def test_the_papers_pgd_0_1_reaches_4_of_255_and_is_no_stronger_than_its_name():
    attacks = by_name(dual=False, surrogate=False)
    assert attacks["corrected:pgd-0.1"].reach == pytest.approx(4 / 255)
    assert attacks["corrected:fgsm-0.1"].reach == 0.1


@pytest.mark.parametrize(
    "rule, changed",
    [
        ("published, running statistics", {"statistics": "running"}),
        ("published, pixels", {"space": "pixels"}),
        ("published, true gradient", {"gradient": "true"}),
    ],
)
def test_every_mixed_rule_differs_from_the_published_one_by_what_it_says(rule, changed):
    attacks = by_name(dual=True, surrogate=True)
    for column in (*catalogue.COLUMNS, "pgd-0.5-code", "clamp-alone"):
        mixed, pure = vars(attacks[f"{rule}:{column}"]), vars(attacks[f"published:{column}"])
        assert {name: mixed[name] for name in mixed if mixed[name] != pure[name]} == {
            "rule": rule,
            "images": "sweep",
        } | changed


def test_the_control_column_is_the_clamp_alone():
    control = by_name(dual=False, surrogate=False)["published:clamp-alone"]
    assert (control.method, control.eps, control.space, control.statistics) == ("fgsm", 0.0, "standardised", "batch")


def test_14_the_linear_bias_starts_as_torch_draws_it_and_the_weights_are_those_of_the_corrected_protocol():
    """Uniform within 1 / sqrt(inputs): inside, beyond half of it in both directions, and not all alike."""
    data, drawn = miniature.dataset(), []
    for seed in range(30):
        config = published(seed=seed)
        model, zero = build.build_model(config, data), build.build_model(config.change(head_bias="zero"), data)
        assert torch.equal(zero.head.bias, torch.zeros(4)) and torch.equal(zero.head.weight, model.head.weight)
        drawn.append(model.head.bias.detach() * 64**0.5)  # 8 times the width
    drawn = torch.cat(drawn)
    assert drawn.abs().max() <= 1 and drawn.min() < -0.9 and drawn.max() > 0.9
    assert abs(drawn.mean().item()) < 0.2 and drawn.std().item() == pytest.approx(3**-0.5, abs=0.1)


def test_18_an_epoch_of_cifar_10_has_196_updates_the_last_of_80_images():
    config = catalogue.config("traditional", protocol="published")
    assert math.ceil(config.images_an_epoch(50_000) / config.batch_size) == 196
    assert config.images_an_epoch(50_000) % config.batch_size == 80


def test_11_14_optimiser_and_initial_weights_are_those_of_the_code_under_both_protocols():
    rows = [catalogue.config("advprop", protocol=protocol) for protocol in ("published", "corrected")]
    for config in rows:
        assert (config.lr, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-4)
        assert (config.batch_size, config.epochs) == (256, 100)
    start = [build.build_model(published(norm=config.norm), miniature.dataset()) for config in rows]
    assert torch.equal(start[0].blocks[3].conv1.weight, start[1].blocks[3].conv1.weight)
