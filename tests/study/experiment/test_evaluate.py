"""Claims about the attack suite: each number is what its specification says, whatever else is measured."""

import copy
from dataclasses import replace

import miniature
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from study.data.pixels import to_pixels
from study.experiment import build
from study.experiment.evaluate import evaluate, make_images
from study.plan import catalogue
from study.plan.attacks import CLAMP_ALONE, PAPER_COLUMNS, PGD_20, STEPS, Attack, suite

MEAN, STD = torch.tensor((0.45, 0.44, 0.43)).view(1, 3, 1, 1), torch.tensor((0.20, 0.21, 0.22)).view(1, 3, 1, 1)
DETERMINISTIC = [*PAPER_COLUMNS, STEPS]
WEAK_PGD = Attack("weak", eps=0.04, step_size=0.01, steps=3)


@pytest.fixture(scope="module")
def data():
    return miniature.dataset(train_size=96, test_size=270)


@pytest.fixture(scope="module")
def config():
    techniques = {
        "adversarial": True,
        "norm": "dual",
        "activation": "surrogate-relu",
        "train_eps": 0.05,
        "train_step_size": 0.03,
    }
    return miniature.config(**techniques, epochs=6, augmentation="none")


@pytest.fixture(scope="module")
def models(config, data):
    """{"true": ..., "surrogate": ...} of one half-trained model, right about some images and wrong about others."""
    return build.gradients(miniature.fit(config, data)[0], config, data)


def measure(models, data, attacks, n=270, **options) -> dict[str, np.ndarray]:
    options = {"sweep_size": 20, **options}
    measured = evaluate(models, data.test_images[:n], data.test_labels[:n], attacks, **options)
    return {measurement.name: measurement.mask for measurement in measured}


def disagreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a != b).mean())


# --- the measurements are the attacks' -----------------------------------------------------------------------------


def naive(model, data, *, rule: str, eps: float, step_size: float, steps: int, n: int = 300) -> np.ndarray:
    """The masks of both protocols written out: batches of 256 in canonical order, PGD through the main branch."""
    model = copy.deepcopy(model).train(rule == "published")
    correct = []
    for k in range(0, n, 256):
        pixels = data.test_images[k : min(k + 256, n)].float() / 255
        y = data.test_labels[k : min(k + 256, n)]
        z = (pixels - MEAN) / STD
        start = z if rule == "published" else pixels
        logits = model.classify if rule == "published" else model
        adv = start.clone()
        for _ in range(steps):
            adv.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits(adv), y, reduction="sum"), adv)
            eta = (adv.detach() + step_size * gradient.sign() - start).clamp(-eps, eps)
            adv = (start + eta).clamp(0, 1)
        correct.append((logits(adv).argmax(1) == y).numpy())
    return np.concatenate(correct)


@pytest.mark.parametrize("rule", ["published", "corrected"])
@pytest.mark.parametrize(
    "column, eps, step_size, steps",
    [
        ("clean", 0, 0, 0),
        ("clamp-alone", 0, 0, 1),
        ("fgsm-0.1", 0.1, 0.1, 1),
        ("pgd-0.1", 0.1, 2 / 255, 2),
        ("fgsm-0.5", 0.5, 0.5, 1),
        ("pgd-0.5", 0.5, 0.5, 2),
        ("pgd-0.5-code", 0.5, 2 / 255, 2),
    ],
)
def test_every_column_equals_its_protocol_written_out(models, data, rule, column, eps, step_size, steps):
    attacks = {attack.name: attack for attack in suite(dual=True, surrogate=True)}
    if (rule, column) == ("corrected", "clamp-alone"):
        attack = CLAMP_ALONE
    else:
        attack = attacks[f"{rule}:{column}"]
    (mask,) = measure(models, data, [attack]).values()
    model = models["surrogate" if rule == "published" else "true"]
    expected = naive(model, data, rule=rule, eps=eps, step_size=step_size, steps=steps)
    assert disagreement(mask, expected) <= 0.01


def test_each_switch_of_the_published_rule_is_obeyed(models, data):
    """Against a switch that is stored in the record and read by nobody."""
    rule = Attack(
        "a", "mixed", eps=0.3, step_size=0.2, steps=2, space="standardised", statistics="batch", gradient="surrogate"
    )
    masks = measure(models, data, [rule])
    for switch in (
        {"space": "pixels"},
        {"statistics": "running"},
        {"gradient": "true"},
        {"step_size": 0.05},
        {"steps": 1},
    ):
        changed = measure(models, data, [replace(rule, **switch)])
        assert disagreement(masks["mixed:a"], changed["mixed:a"]) > 0.01, switch


def test_batch_statistics_are_of_256_images_in_canonical_order_whatever_the_batch_size(models, data):
    attacks = [replace(a, rule="published", statistics="batch", space="standardised") for a in PAPER_COLUMNS]
    whole = measure(models, data, attacks)
    for batch_size in (1, 100):
        again = measure(models, data, attacks, batch_size=batch_size)
        assert all(np.array_equal(whole[name], again[name]) for name in whole)
    reversed_order = replace_test(data, torch.arange(269, -1, -1))
    assert any(
        not np.array_equal(whole[name], mask[::-1]) for name, mask in measure(models, reversed_order, attacks).items()
    )


def replace_test(data, order):
    return replace(data, test_images=data.test_images[order], test_labels=data.test_labels[order])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_with_running_statistics_the_batch_size_does_not_matter(models, data, batch_size):
    whole = measure(models, data, DETERMINISTIC, n=24)
    for name, mask in measure(models, data, DETERMINISTIC, n=24, batch_size=batch_size).items():
        assert (mask != whole[name]).sum() <= 1, name  # a convolution may round differently in another batch


def test_with_running_statistics_the_order_does_not_matter(models, data):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    whole = measure(models, data, PAPER_COLUMNS, n=60)
    shuffled = measure(models, replace_test(data, order), PAPER_COLUMNS, n=60)
    for name in whole:
        assert (whole[name][order.numpy()] != shuffled[name]).sum() <= 1, name


def test_masks_are_in_canonical_order(models, data):
    (mask,) = measure(models, data, [PAPER_COLUMNS[0]], batch_size=32).values()
    model = copy.deepcopy(models["true"]).eval()
    with torch.no_grad():
        right = (model(data.test_images.float() / 255).argmax(1) == data.test_labels).numpy()
    assert np.array_equal(mask, right) and 0.3 < mask.mean() < 1


def test_sweeps_are_of_the_first_images_only_and_never_more_than_there_are(models, data):
    sweep = replace(PAPER_COLUMNS[1], images="sweep")
    for sweep_size, n in [(20, 20), (500, 60)]:
        whole = evaluate(
            models, data.test_images[:60], data.test_labels[:60], [PAPER_COLUMNS[1]], sweep_size=sweep_size
        )
        part = evaluate(models, data.test_images[:60], data.test_labels[:60], [sweep], sweep_size=sweep_size)
        assert part[0].n == n and np.array_equal(part[0].mask, whole[0].mask[:n])


# --- first success ------------------------------------------------------------------------------------------------


def test_a_curve_over_steps_says_which_images_survived_every_iterate_so_far(models, data):
    masks = measure(models, data, [STEPS], n=20)
    assert list(masks) == [f"corrected:steps-{k}" for k in (1, 2, 5, 10, 20, 50)]
    model = copy.deepcopy(models["true"]).eval()
    x, y = data.test_images[:20].float() / 255, data.test_labels[:20]
    adv, alive = x.clone(), (model(x).argmax(1) == y).numpy()
    for step in range(1, 51):
        adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv), y, reduction="sum"), adv)
        adv = adv.detach() + 2 / 255 * gradient.sign()
        adv = torch.minimum(torch.maximum(adv, x - 8 / 255), x + 8 / 255).clamp(0, 1)
        alive &= (model(adv).argmax(1) == y).numpy()
        if f"corrected:steps-{step}" in masks:
            assert (masks[f"corrected:steps-{step}"] != alive).sum() <= 1, step
    survivors = [int(mask.sum()) for mask in masks.values()]
    assert survivors == sorted(survivors, reverse=True) and survivors[0] > survivors[-1]


def test_what_is_reported_after_k_steps_is_specified_as_k_steps(models, data):
    measured = evaluate(models, data.test_images[:20], data.test_labels[:20], [STEPS], sweep_size=20)
    assert [m.attack["steps"] for m in measured] == [1, 2, 5, 10, 20, 50]
    assert [m.column for m in measured] == [f"steps-{k}" for k in (1, 2, 5, 10, 20, 50)]


def test_first_success_counts_an_image_that_is_wrong_without_any_attack_as_lost(models, data):
    clean, attacked = measure(models, data, [PAPER_COLUMNS[0], PGD_20], n=60).values()
    assert not (attacked & ~clean).any() and attacked.sum() < clean.sum()


# --- the suite ----------------------------------------------------------------------------------------------------

KINDS = [{"dual": dual, "surrogate": surrogate} for dual in (False, True) for surrogate in (False, True)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_names_are_unique_and_specifications_too(models, data, kind):
    attacks = suite(**kind)
    assert len({attack.name for attack in attacks}) == len(attacks)
    assert len({replace(attack, rule="", column="") for attack in attacks if attack.rule == "corrected"}) == len(
        [attack for attack in attacks if attack.rule == "corrected"]
    )


def test_measurements_of_the_largest_suite_have_unique_names_and_full_specifications(models, data):
    attacks = suite(dual=True, surrogate=True)
    measured = evaluate(models, data.test_images[:8], data.test_labels[:8], attacks, sweep_size=4)
    names = [m.name for m in measured]
    assert len(set(names)) == len(names) == len(attacks) + 5  # the curve over steps is six from one
    fields = set(vars(Attack("x"))) - {"also_after"}
    assert all(set(m.attack) == fields and m.attack["column"] == m.column for m in measured)
    assert {m.n for m in measured} == {8, 4}


def test_every_model_goes_through_what_the_issue_asks_for():
    names = {attack.name for attack in suite(dual=False, surrogate=False)}
    for rule in catalogue.PROTOCOLS:
        assert {f"{rule}:{column}" for column in (*catalogue.COLUMNS, "pgd-0.5-code")} <= names
    assert {"published:clamp-alone", "corrected:pgd-20-8/255", "corrected:steps-50"} <= names
    assert {f"corrected:{kind}-{eps}/255" for kind in ("fgsm", "pgd-10") for eps in (1, 2, 4, 8, 16)} <= names
    assert {f"corrected:noise-{eps}" for eps in ("8/255", "0.1", "0.5")} <= names
    assert not [name for name in names if "aux" in name or "surrogate" in name]


def test_strong_attacks_get_the_first_images_that_are_theirs_and_0_is_all(models, data):
    strong = replace(PAPER_COLUMNS[1], images="strong")
    shown, labels = data.test_images[:60], data.test_labels[:60]
    (whole,) = evaluate(models, shown, labels, [PAPER_COLUMNS[1]], sweep_size=20)
    for strong_size, n in [(0, 60), (30, 30), (500, 60)]:
        (part,) = evaluate(models, shown, labels, [strong], sweep_size=20, strong_size=strong_size)
        assert part.n == n and (part.mask == whole.mask[:n]).all()
    kinds = {attack.name: attack.images for attack in suite(dual=True, surrogate=True)}
    assert kinds["corrected:pgd-20-8/255"] == kinds["corrected:pgd-20-8/255:aux"] == "strong"
    assert kinds["corrected:clean"] == kinds["published:pgd-0.1"] == "all"


def test_the_strong_attack_is_strong_as_specified():
    assert (PGD_20.eps, PGD_20.step_size, PGD_20.steps) == (8 / 255, 2 / 255, 20)
    assert PGD_20.random_start and PGD_20.restarts >= 2 and PGD_20.reach == 8 / 255
    for attack in suite(dual=False, surrogate=False):
        if attack.column.startswith("pgd-10-"):
            assert attack.steps == 10 and attack.step_size == pytest.approx(attack.eps / 4)


def test_models_with_two_branches_are_also_attacked_through_each_and_across():
    more = {a.name for a in suite(dual=True, surrogate=False)} - {a.name for a in suite(dual=False, surrogate=False)}
    attacked = [column for column in (*catalogue.COLUMNS, "pgd-20-8/255") if column != "clean"]
    expected = {"corrected:clean:aux"} | {f"corrected:{column}:aux" for column in attacked}
    expected |= {f"corrected:{column}:{way}" for column in attacked for way in ("aux-to-main", "main-to-aux")}
    assert more == expected


def test_models_with_surrogate_gradients_are_attacked_by_both_gradients_on_every_branch():
    attacks = suite(dual=True, surrogate=True)
    true = {
        a.column for a in attacks if a.rule == "corrected" and a.gradient == "true" and a.branch == a.through == "aux"
    }
    surrogate = {a.column for a in attacks if a.rule == "corrected" and a.gradient == "surrogate" and a.branch == "aux"}
    assert surrogate == true - {"clean"}
    on_main = {a.column for a in attacks if a.rule == "corrected" and a.gradient == "surrogate" and a.branch == "main"}
    assert on_main >= surrogate


def test_the_suite_never_asks_for_a_gradient_or_branch_that_the_model_lacks():
    assert {a.gradient for a in suite(dual=True, surrogate=False)} == {"true"}
    assert {a.branch for a in suite(dual=False, surrogate=True)} == {"main"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "FGSM"},
        {"gradient": "smooth"},
        {"space": "pixel"},
        {"statistics": "train"},
        {"branch": "auxiliary"},
        {"images": "some"},
        {"stop": "first-success", "through": "aux"},
        {"stop": "first-success", "space": "standardised"},
        {"stop": "first-success", "statistics": "batch"},
        {"also_after": (1,)},
        {"also_after": (1,), "stop": "first-success", "restarts": 2},
    ],
    ids=str,
)
def test_an_attack_that_would_run_as_something_else_is_refused(wrong):
    with pytest.raises(ValueError):
        Attack("x", eps=0.1, step_size=0.1, steps=2, **wrong)


# --- branches and gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["main", "aux"])
@pytest.mark.parametrize("through", ["main", "aux"])
def test_images_are_made_through_one_branch_and_classified_by_the_other(models, data, branch, through):
    """By two models whose branches are laid over one another by hand."""
    attack = replace(WEAK_PGD, branch=branch, through=through)
    (mask,) = measure(models, data, [attack], n=60).values()
    attacked, judge = (with_main_from(models["true"], b) for b in (through, branch))
    x, y = to_pixels(data.test_images[:60]), data.test_labels[:60]
    shown = make_images(attacked, x, y, WEAK_PGD)
    assert (mask != (judge(shown).argmax(1) == y).numpy()).sum() <= 1


def with_main_from(model, branch: str):
    """A copy whose main branch is the given one, and whose auxiliary branch cannot be used unnoticed."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in list(state):
        if ".main." in name:
            state[name] = state[name.replace(".main.", f".{branch}.")].clone()
    for name in list(state):
        if ".aux." in name and state[name].is_floating_point():
            state[name].fill_(float("nan"))
    other = copy.deepcopy(model).eval()
    other.load_state_dict(state)
    return other


def test_the_four_ways_through_two_branches_are_four_different_measurements(models, data):
    ways = [replace(WEAK_PGD, branch=b, through=t) for b in ("main", "aux") for t in ("main", "aux")]
    masks = list(measure(models, data, ways).values())
    assert len({mask.tobytes() for mask in masks}) == 4


def test_the_true_twin_has_the_same_predictions_and_another_gradient(models, data):
    x, y = to_pixels(data.test_images[:60]), data.test_labels[:60]
    twins = {name: copy.deepcopy(model).eval() for name, model in models.items()}
    assert torch.equal(twins["true"](x), twins["surrogate"](x))
    attack = Attack("x", method="fgsm", eps=0.05)
    assert not torch.equal(make_images(twins["true"], x, y, attack), make_images(twins["surrogate"], x, y, attack))
    assert not any(type(module).__name__ == "SurrogateReLU" for module in twins["true"].modules())


# --- nothing else changes -----------------------------------------------------------------------------------------

MIXTURE = [
    *PAPER_COLUMNS,
    *(
        replace(a, rule="published", space="standardised", statistics="batch", gradient="surrogate")
        for a in PAPER_COLUMNS
    ),
    PGD_20,
    replace(PGD_20, branch="aux", through="aux"),
    Attack("noise", method="noise", eps=0.3),
    replace(WEAK_PGD, random_start=True),
]


def test_models_modes_statistics_gradients_and_global_generators_are_left_as_they_were(models, data):
    for k, module in enumerate(models["true"].modules()):
        module.training = k % 3 == 0
    modes = {name: [m.training for m in model.modules()] for name, model in models.items()}
    states = {name: miniature.state(model) for name, model in models.items()}
    images = data.test_images.clone()
    torch.manual_seed(4)
    np.random.seed(4)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    measure(models, data, MIXTURE, n=20)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert {name: [m.training for m in model.modules()] for name, model in models.items()} == modes
    assert all(miniature.same(miniature.state(model), states[name]) for name, model in models.items())
    assert torch.equal(data.test_images, images)


def test_gradients_of_parameters_are_neither_left_nor_needed(config, data, models):
    fresh = build.gradients(build.build_model(config, data), config, data)
    measure(fresh, data, MIXTURE, n=20)
    assert all(p.grad is None and p.requires_grad for model in fresh.values() for p in model.parameters())


def test_a_measurement_does_not_depend_on_the_others_nor_on_modes_nor_on_the_global_generator(models, data):
    torch.manual_seed(1)
    together = measure(models, data, MIXTURE, n=40)
    torch.manual_seed(2)
    for model in models.values():
        model.train()
    for attack in reversed(MIXTURE):
        (alone,) = measure(models, data, [attack], n=40).values()
        assert np.array_equal(alone, together[attack.name]), attack.name


def test_random_attacks_follow_the_seed(models, data):
    random = [Attack("noise", method="noise", eps=0.3), replace(WEAK_PGD, eps=0.2, random_start=True)]
    first, again, other = (measure(models, data, random, seed=seed) for seed in (0, 0, 1))
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name]), name


def test_noise_is_within_eps_and_within_0_and_1_and_differs_from_image_to_image(models, data):
    x, y = to_pixels(data.test_images[:2].clone()), data.test_labels[:2]
    x[1] = x[0]
    noisy = make_images(models["true"], x, y, Attack("n", method="noise", eps=0.3), torch.Generator().manual_seed(0))
    delta = noisy - x
    assert 0.2 < delta.abs().max() <= 0.3 + 1e-6 and 0 <= noisy.min() and noisy.max() <= 1
    assert not torch.equal(noisy[0], noisy[1])
    assert delta.min() < -0.1 and delta.max() > 0.1


def test_every_computation_is_in_float32(models, data):
    seen = set()
    hooks = [
        model.stem.register_forward_hook(lambda m, i, o: seen.add((i[0].dtype, o.dtype))) for model in models.values()
    ]
    try:
        measure(models, data, [PAPER_COLUMNS[2], PGD_20], n=8)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {(torch.float32, torch.float32)}
