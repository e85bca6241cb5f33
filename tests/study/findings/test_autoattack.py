"""AutoAttack finds what there is and no more, is believed nothing, can be cut off, and says where it cannot judge."""

import dataclasses
import inspect
import json
import math
import re
import sys
from itertools import pairwise

import fake_records as fake
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from peers import imported
from places import ROOT
from torch import nn

from study import records
from study.__main__ import main
from study.evidence import comparisons
from study.experiment import run
from study.experiment.weights import save_weights
from study.findings.autoattack import judge, measure, report
from study.findings.autoattack.judge import ATTACKS, EPS, AutoAttack, AutoAttackOnAux
from study.findings.masking import judge as masking
from study.findings.masking.probes import Probe
from study.plan.catalogue import config
from study.records import Measurement
from study.records.packing import pack_mask

FAST = {"steps": 20, "queries": 60}


@pytest.fixture(scope="module")
def library():
    return imported("pyautoattack")


class Linear(nn.Module):
    """Logits W x of four classes: what an attack in the ball can do is known in closed form."""

    def __init__(self, channels=3, size=4):
        super().__init__()
        weight = torch.randn(4, channels * size * size, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def forward(self, x, branch="main"):
        return x.flatten(1) @ self.weight.T


class Edge(nn.Module):
    """Class 0 while the mean pixel is below ``at``, else class 1; classes 2 and 3 never."""

    def __init__(self, at):
        super().__init__()
        self.slope, self.at = nn.Parameter(torch.tensor(5.0)), at

    def forward(self, x, branch="main"):
        height = self.slope * (x.flatten(1).mean(dim=1) - self.at)
        return torch.stack([-height, height, -1 - 0 * height, -2 - 0 * height], dim=1)


class Hidden(Edge):
    """The same decision, and a gradient that is 0 everywhere."""

    def forward(self, x, branch="main"):
        return super().forward(x).detach() + 0 * x.flatten(1).sum(dim=1, keepdim=True)


class TwoBranches(Linear):
    """The auxiliary branch calls every class by the name of the next one."""

    def forward(self, x, branch="main"):
        return super().forward(x) if branch == "main" else super().forward(x).roll(1, dims=1)


class Probabilities(Linear):
    def forward(self, x, branch="main"):
        return super().forward(x).softmax(dim=1)


class Randomised(Linear):
    def forward(self, x, branch="main"):
        return super().forward(x + 0.01 * torch.randn_like(x))


class Optimising(Linear):
    """Before it classifies, it takes a gradient step of its own."""

    def forward(self, x, branch="main"):
        with torch.enable_grad():
            inner = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(super().forward(inner).square().sum(), inner)
        return super().forward(x - 1e-3 * gradient)


def linear_problem(n=40):
    """Images away from black and white, so that the ball is whole, and labels as the model has them, two wrong."""
    model = Linear()
    images = torch.randint(26, 230, (n, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = model(images / 255).argmax(dim=1)
    labels[:2] = (labels[:2] + 1) % 4
    return model, images, labels


def recorded(model, images, labels, name="corrected:clean", **changes):
    """A record with the network's own clean mask, and nothing else."""
    with torch.no_grad():
        clean = (model.eval()(images / 255).argmax(dim=1) == labels).numpy()
    attack = {"method": "none", "eps": 0.0}
    measurement = Measurement(name, "clean", attack, len(labels), pack_mask(clean))
    return dataclasses.replace(fake.record("traditional", **changes), measurements=(measurement,))


@pytest.fixture(scope="module")
def linear(library):
    model, images, labels = linear_problem()
    record = recorded(model, images, labels)
    return model, images, labels, record, attacked(model, images, labels, record)


def attacked(model, images, labels, record, **options):
    about = fake.about(record, len(images), "w" * 64)
    return measure.attack(model, images, labels, record=record, about=about, **FAST | options)


def robust(model, images, labels) -> np.ndarray:
    """bool (n,): the margin to each other class exceeds what eps can move it, which is eps times the L1 norm."""
    w, x = model.weight.detach().double().numpy(), images.flatten(1).double().numpy() / 255
    own = w[labels.numpy()]
    margins = np.stack([((own - other) * x).sum(1) - EPS * np.abs(own - other).sum(1) for other in w], axis=1)
    margins[np.arange(len(x)), labels.numpy()] = np.inf
    assert (np.abs(margins.min(axis=1)) > 1e-4).all(), "no image so near the edge that rounding decides"
    return margins.min(axis=1) > 0


# what it finds


def test_on_a_linear_network_the_ensemble_reaches_the_closed_form_and_no_attack_goes_below_it(linear):
    model, images, labels, _, found = linear
    expected = robust(model, images, labels)
    assert 0 < expected.sum() < len(expected)
    for attack in ATTACKS:
        assert not (expected & ~found.after(attack)).any(), f"{attack} fools images that nothing in the ball can fool"
    assert (found.after("apgd-t") == expected).all()


def test_the_auxiliary_branch_is_attacked_through_itself(library):
    model, images, labels = linear_problem()
    model.__class__ = TwoBranches
    turned = (labels + 1) % 4  # what the auxiliary branch says where the main one says `labels`
    record = recorded(measure.Branch(model, "aux"), images, turned, name="corrected:clean:aux")
    network = measure.Branch(model, "aux")
    found = attacked(network, images, turned, record, kind=AutoAttackOnAux)
    assert (found.after("apgd-t") == robust(model, images, labels)).all() and found.after("clean").sum() == 38
    with pytest.raises(ValueError, match="5.0% of images only, corrected:clean:aux"):
        attacked(measure.Branch(model, "main"), images, turned, record, kind=AutoAttackOnAux)


@pytest.mark.parametrize("attack", ["apgd-t", "fab-t"])
def test_each_targeted_attack_alone_reaches_the_closed_form(attack, linear):
    model, images, labels, *_ = linear
    x, alive = images / 255, torch.ones_like(labels, dtype=torch.bool)
    how = {"steps": 40, "queries": 10, "seed": 0, "logger": measure.Heard()}
    perturb, _ = measure.attacker(attack, model.requires_grad_(False), x, **how)
    left = measure.survivors(perturb, model, x, labels, alive)
    model.requires_grad_(True)
    assert (left.numpy() == robust(model, images, labels)).all()


def test_each_attack_is_tried_on_what_those_before_it_left(linear):
    model, images, labels, _, found = linear
    clean = (model(images / 255).argmax(dim=1) == labels).numpy()
    assert (found.attacked("apgd-ce") == clean).all() and not clean[:2].any()
    for before, attack in pairwise(ATTACKS):
        assert (found.attacked(attack) == found.after(before)).all()
    assert (found.left == found.after("square")).all()


def test_what_is_left_is_what_the_librarys_own_evaluation_leaves(library, linear):
    model, images, labels, _, found = linear
    theirs = library.AutoAttack(model, eps=EPS, seed=0)
    theirs.square.n_queries = FAST["queries"]
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 3
    with torch.random.fork_rng(devices=[]):
        _, predicted = theirs.run_standard_evaluation(images / 255, labels, batch_size=50)
    assert ((predicted == labels).numpy() == found.left).all()


def test_the_attacks_are_those_of_the_standard_version(library):
    model, x = Linear(), torch.rand(1, 3, 4, 4)
    theirs = library.AutoAttack(model, eps=EPS, seed=0, version="standard")
    theirs.apgd.loss, theirs.fab.targeted = "ce", True  # as its evaluation sets them before it attacks
    assert tuple(theirs.attacks_to_run) == ATTACKS
    how = {"steps": measure.STEPS, "queries": measure.QUERIES, "seed": 0, "logger": None}
    for attack, their in zip(ATTACKS, (theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square), strict=True):
        own = vars(measure.attacker(attack, model, x, **how)[0].__self__)
        plain = {name for name, value in vars(their).items() if isinstance(value, int | float | str | bool)} - {
            "device"
        }
        targets = {name for name in plain if name == "n_target_classes"}
        assert {name: own[name] for name in plain - targets} == {name: getattr(their, name) for name in plain - targets}
        if targets and attack != "square":
            assert their.n_target_classes == measure.TARGETS and own["n_target_classes"] == 3


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t"])
def test_apgd_finds_the_same_images_as_that_of_another_library(attack, library):
    torchattacks = pytest.importorskip("torchattacks")
    model, images, labels = linear_problem()
    x = images / 255
    how = {"steps": 30, "queries": 1, "seed": 3, "logger": measure.Heard()}
    shared = {"eps": EPS, "steps": 30, "seed": 3}
    other = (
        torchattacks.APGD(model, **shared) if attack == "apgd-ce" else torchattacks.APGDT(model, n_classes=4, **shared)
    )
    with torch.random.fork_rng(devices=[]):
        ours, theirs = measure.attacker(attack, model, x, **how)[0](x, labels), other(x, labels)
    assert (ours != x).any() and torch.allclose(ours, theirs, atol=1e-6)


def test_the_specification_says_what_was_run(linear):
    *_, record, found = linear
    assert [m.name for m in found.measurements] == [f"autoattack:{attack}" for attack in ("clean", *ATTACKS)]
    for measurement in found.measurements[1:]:
        attack = measurement.attack
        assert (attack["eps"], attack["norm"], attack["seed"]) == (EPS, "linf", record.seed)
        assert attack["library"].startswith("pyautoattack ")
        assert attack.get("steps", attack.get("queries")) in FAST.values()
    assert found.measurements[2].attack["targets"] == 3, "of four classes"


# it is believed nothing, and leaves no trace


def test_images_are_classified_again_whatever_an_attack_says_of_itself():
    model = Edge(at=0.11)
    x, y = torch.full((3, 3, 4, 4), 0.1), torch.zeros(3, dtype=torch.int64)
    alive = torch.tensor([True, True, False])

    def one_of_two(x, y):
        return torch.stack([x[0] + 0.03, x[1]])

    left = measure.survivors(one_of_two, model, x, y, alive)
    assert left.tolist() == [False, True, False]


@pytest.mark.parametrize(
    "shift", [0.04, -0.11, math.nan], ids=["beyond the ball", "below black and the ball", "not a number"]
)
def test_an_attack_that_leaves_its_ball_or_the_pixels_is_refused(shift):
    x, y = torch.full((2, 3, 4, 4), 0.1), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="left its ball"):
        measure.survivors(lambda x, y: x + shift, Edge(at=0.5), x, y, y == 0)


def test_pixels_below_black_are_refused_though_they_are_in_the_ball():
    x, y = torch.full((2, 3, 4, 4), 0.01), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="or the pixels"):
        measure.survivors(lambda x, y: x - 0.02, Edge(at=0.5), x, y, y == 0)


def test_the_model_and_all_generators_are_left_as_they_were(library):
    model, images, labels = linear_problem(8)
    model.train()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    attacked(model, images, labels, recorded_training(model, images, labels))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert model.training and model.weight.grad is None and model.weight.requires_grad


def recorded_training(model, images, labels):
    record = recorded(model, images, labels)
    model.train()
    return record


def test_a_network_of_another_record_is_refused(library):
    model, images, labels = linear_problem(10)
    record = recorded(model, images, labels)
    with pytest.raises(ValueError, match=r"not that of .*they agree on 0\.0% of images only"):
        attacked(model, images, (labels + 1 - (torch.arange(10) < 2) * 1) % 4, flipped(record))


def flipped(record):
    """The record with the opposite of what a network with those labels would get."""
    model, images, labels = linear_problem(10)
    right = model(images / 255).argmax(dim=1) == (labels + 1 - (torch.arange(10) < 2) * 1) % 4
    clean = dataclasses.replace(record.measurements[0], correct=pack_mask(~right.numpy()))
    return dataclasses.replace(record, measurements=(clean,))


def test_fewer_than_four_classes_are_refused(library):
    class Three(Linear):
        def forward(self, x, branch="main"):
            return super().forward(x)[:, :3]

    model, (_, images, _) = Three(), linear_problem(4)
    labels = model(images / 255).argmax(dim=1)
    with pytest.raises(ValueError, match="3 classes, and the targeted loss of AutoAttack needs 4"):
        attacked(model, images, labels, recorded(model, images, labels))


def test_without_the_library_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model, images, labels = linear_problem(4)
    with pytest.raises(ImportError, match=r"pip install --no-deps -r requirements-peers\.lock"):
        attacked(model, images, labels, recorded(model, images, labels))


# flags


def flags(model):
    _, images, labels = linear_problem(12)
    return {flag for flag, warning in measure.flags(model, images / 255, labels).items() if warning}


def test_each_kind_of_network_that_autoattack_cannot_judge_raises_its_flag_and_an_honest_one_none(library):
    found = {kind: flags(kind()) for kind in (Linear, Probabilities, Randomised, Optimising)}
    assert found[Linear] == set()
    assert found[Probabilities] == {"probabilities"}
    assert found[Randomised] == {"randomised"}
    assert found[Optimising] == {"optimises"}


def test_a_flag_is_of_its_network_and_not_of_one_before_it(library):
    """The library counts calls of gradients for as long as the process lives."""
    assert flags(Optimising()) == {"optimises"}
    assert flags(Linear()) == set()


def test_checking_leaves_the_tracer_as_it_was(library):
    def tracer(*_):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        flags(Linear())
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("kind", [Edge, Hidden])
def test_a_hidden_gradient_raises_its_flag_and_so_does_square_that_needs_none(kind, library):
    model = kind(at=0.11)
    images, labels = torch.full((12, 3, 8, 8), 26, dtype=torch.uint8), torch.zeros(12, dtype=torch.int64)
    record = recorded(model, images, labels)
    found = attacked(model, images, labels, record, queries=300)
    raised = {flag for flag, warning in found.flags.items() if warning}
    if kind is Hidden:
        assert raised == {"zero-gradient", "square"}
        assert "12 points with zero gradient" in found.flags["zero-gradient"]
        assert found.after("fab-t").all() and not found.left.all()
    else:
        assert raised == set() and not found.left.any()
        assert "zero-gradient" not in found.flags, "APGD-CE left no image to check it on"


@pytest.mark.parametrize(("lost", "raised"), [(0, False), (1, False), (2, True)])
def test_square_is_flagged_above_two_tenths_of_a_point_and_not_at_it(lost, raised, library):
    found = made_up(images=500, left=(300, 260, 10, 10, 10 - lost))
    assert bool(measure._flags_after("square", found, None, measure.Heard())["square"]) is raised


# the file


def made_up(record=None, kind=AutoAttack, images=200, left=(150, 60, 50, 40, 40), weights="w" * 64, **changes):
    """A file in which the first so many images are left, clean and after each attack; it is of ``record``."""
    record = record or fake.record(**{"corrected:clean": 0.75})
    masks = [pack_mask(np.arange(images) < count) for count in left]
    specification = {"method": "pgd", "eps": EPS, "norm": "linf"}
    fields = {
        **fake.about(record, images, weights),
        "measurements": tuple(
            Measurement(f"autoattack:{attack}", f"{attack}-8/255", specification, images, mask)
            for attack, mask in zip(("clean", *ATTACKS), masks, strict=False)
        ),
        "seconds": dict.fromkeys(ATTACKS[: len(left) - 1], 60.0),
        "flags": dict.fromkeys(judge.FLAGS, ""),
    }
    return kind(**fields | changes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: raw["measurements"].clear(), "not the first of autoattack:clean, autoattack:apgd-ce"),
        (lambda raw: raw["measurements"].pop(0), "not the first of"),
        (lambda raw: raw["measurements"].pop(1), "not the first of"),
        (lambda raw: raw["measurements"].reverse(), "not the first of"),
        (
            lambda raw: raw["measurements"][2].update(correct=raw["measurements"][0]["correct"]),
            "after apgd-t images are right that were wrong before it",
        ),
        (lambda raw: raw.update(flags={"odd": "x"}), r"unknown flags or attacks \['odd'\]"),
        (lambda raw: raw.update(seconds={"odd": 1.0}), r"unknown flags or attacks \['odd'\]"),
    ],
)
def test_a_file_whose_attacks_do_not_follow_each_other_is_refused_with_the_remedy(change, match, tmp_path):
    record = fake.record(**{"corrected:clean": 0.75})
    path = fake.beside(made_up(record), tmp_path)
    assert AutoAttack.read(path, record).left.sum() == 40
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f"{match}.*python -m study measure autoattack advprop"):
        AutoAttack.read(path, record)


def test_as_many_attacks_are_finished_as_a_file_has_beyond_the_clean_images():
    assert [made_up(left=(150, *[60] * k)).attacks for k in range(5)] == [ATTACKS[:k] for k in range(5)]


class Cut(BaseException):
    """The power fails."""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_cut_off_and_continued_is_as_unbroken(after, linear, tmp_path):
    model, images, labels, record, unbroken = linear
    kept = []

    def keep(found):
        found.write(tmp_path, record)
        kept.append(found)
        if len(kept) == after:
            raise Cut

    with pytest.raises(Cut):
        attacked(model, images, labels, record, keep=keep)
    before = AutoAttack.read(tmp_path / record.where / AutoAttack.FILE, record)
    assert before.attacks == ATTACKS[:after]
    found = attacked(model, images, labels, record, before=before)
    assert dataclasses.replace(found, seconds={}) == dataclasses.replace(unbroken, seconds={})


def test_the_command_writes_continues_and_refuses(library, tmp_path, capsys, monkeypatch):
    attack = inspect.unwrap(measure.attack)
    monkeypatch.setattr(attack, "__kwdefaults__", attack.__kwdefaults__ | FAST)
    learnt = run.learn(config("traditional", budget="smoke", epochs=1))
    data = learnt.dataset
    record = fake.trained("traditional", config("traditional", budget="smoke", epochs=1), learnt.models, data)
    path = fake.put(record, tmp_path) / AutoAttack.FILE
    weights = save_weights(learnt.model, tmp_path / "model.safetensors", record)
    place = ["--budget", "smoke", "--results", str(tmp_path), "--weights", str(weights)]
    asked = ["measure", "autoattack", "traditional", *place]
    assert main([*asked, "--images", "12", "--until", "apgd-ce"]) == 0
    assert "of 12 images right, clean" in capsys.readouterr().out
    first = AutoAttack.read(path, record)
    assert first.attacks == ("apgd-ce",) and first.provenance["precision"] == "float32"
    assert main(asked) == 0
    found = AutoAttack.read(path, record)
    assert (found.attacks, found.images, found.measurements[:2]) == (ATTACKS, 12, first.measurements)
    stamp = path.read_bytes()
    assert main(asked) == 0 and path.read_bytes() == stamp, "nothing is missing: nothing is done"
    assert main([*asked, "--images", "20"]) == 2
    assert "is of 12 images, not of 20: ask for --images 12, or begin again with --anew" in capsys.readouterr().err
    save_weights(learnt.model, weights, record, dtype=torch.float16)
    assert main(asked) == 2
    assert "the weights have changed since" in capsys.readouterr().err
    assert main([*asked[:3], "adversarial", *place]) == 2
    assert "name one row" in capsys.readouterr().err
    assert main([*asked, "--images", "20", "--until", "apgd-ce", "--anew"]) == 0
    anew = AutoAttack.read(path, record)
    assert (anew.attacks, anew.images) == (("apgd-ce",), 20) and anew.weights != found.weights
    path.unlink()
    assert main([*asked, "--images", "101"]) == 2
    assert "101 images are asked for" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert main(asked) == 2 and not path.exists()
    assert "pip install --no-deps -r requirements-peers.lock" in capsys.readouterr().err


def test_the_committed_files_are_of_the_standard_version():
    for path in ROOT.glob(f"results/**/{AutoAttack.FILE}"):
        found = AutoAttack.read(path, records.read(path.with_name("record.json")))
        assert found.provenance["precision"] == "float32"
        for measurement in found.measurements:
            assert measurement.attack.get("steps", 100) == 100 and measurement.attack.get("queries", 5000) == 5000


# the worst case


def test_the_worst_case_is_the_and_of_all_masks_that_reach_an_image():
    masks = [np.array(bits, bool) for bits in ([1, 1, 1, 0, 1], [1, 0, 1], [0, 1, 1, 1])]
    assert judge.worst_case(masks).tolist() == [False, False, True, False, True]
    assert masks[0].tolist() == [True, True, True, False, True], "the masks themselves stay"
    with pytest.raises(ValueError, match="a mask of 5 images, and the worst case is over 3"):
        judge.worst_case([masks[1], masks[0]])


def test_attacks_of_this_ball_on_the_network_as_it_is_used_count_and_no_others():
    record = fake.record("sat-advprop")
    counted = {m.name for m in record.measurements if judge.in_ball(m)}
    assert counted == {
        "corrected:pgd-20-8/255",
        "corrected:pgd-20-8/255:surrogate",
        "corrected:pgd-20-8/255:aux-to-main",
        "corrected:pgd-10-8/255",
        "corrected:fgsm-8/255",
        "corrected:noise-8/255",
        *(f"corrected:steps-{k}" for k in (1, 2, 5, 10, 20, 50)),
    }
    assert {m.name for m in record.measurements if judge.in_ball(m, "aux")} == {
        "corrected:pgd-20-8/255:aux",
        "corrected:pgd-20-8/255:aux:surrogate",
        "corrected:pgd-20-8/255:main-to-aux",
    }


def case(record=None, probe=None, **changes):
    record = record or fake.record(**{"corrected:clean": 0.75, f"corrected:{comparisons.STRONG}": 0.3})
    drop = {m.name for m in record.measurements} - {"corrected:clean", f"corrected:{comparisons.STRONG}"}
    record = dataclasses.replace(record, measurements=tuple(m for m in record.measurements if m.name not in drop))
    return judge.case(record, made_up(record, **changes), probe)


def test_a_case_says_what_is_left_and_how_far_below_pgd_20_with_wilsons_interval():
    one = case()
    assert one.worst.sum() == 40 and one.before.sum() == 60
    n, z = 200, 1.959963984540054
    for estimate, share in ((one.accuracy, 40 / n), (one.below, 20 / n)):
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((share, centre - half, centre + half))


def test_an_attack_of_the_probe_counts_on_the_images_that_it_saw():
    square = {"column": "square-8/255", "method": "square", "eps": EPS, "norm": "linf", "restarts": 1, "queries": 9}
    mask = pack_mask(np.arange(20) >= 5)
    found = Measurement("probe:square-8/255", "square-8/255", square, 20, mask)
    unbounded = Measurement("probe:unbounded", "unbounded", square | {"eps": 1.0}, 20, pack_mask(np.zeros(20, bool)))
    one = case(probe=dataclasses.replace(made_probe(), measurements=(found, unbounded)))
    assert one.worst.sum() == 35, "five of the first twenty"


def made_probe():
    about = fake.about(fake.record(), 20)
    return Probe(**about, measurements=(), zero_gradient="", vanishing_gradient="", loss={}, last_step=(0.0, 0.0))


# the page


def test_the_page_says_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path))
    raised = dict.fromkeys(judge.FLAGS, "") | {"square": "Square Attack has decreased <it>."}
    both = [
        case(flags=raised),
        case(fake.record("als", **{"corrected:clean": 0.75, f"corrected:{comparisons.STRONG}": 0.3})),
    ]
    for one in both:
        fake.put(one.record, tmp_path)
    text = report.summary(both)
    assert "AutoAttack was run on 2 networks and the first 200 test images." in text
    assert "at most 10.0 percentage points below PGD-20 (AdvProp, corrected)" in text
    assert "FAB-T and Square find 20 further images, over the 2 networks" in text
    assert "raised a flag: Square finds more." in text
    group = [one.record for one in both] + [fake.record("sat")]
    fake.put(group[-1], tmp_path)
    html = report.every_network(masking.verdicts(group), both, group)
    advprop, als, sat = (line for line in re.findall(r'<tr><th scope="row">.*?</tr>', html))
    for line, left in ((als, "30.0<"), (advprop, "30.0<")):
        assert left in line and line.count("20.0<span") == 2, "after AutoAttack, and in the worst case"
    assert sat.count("not run") == 2
    assert "AutoAttack" not in report.every_network(masking.verdicts(group), [], group), "two columns of nothing"
    assert "decreased &lt;it&gt;." in report.flags(both) and "AdvProp, corrected: Square" in report.flags(both)


def test_a_run_that_is_not_finished_shows_what_is_missing(tmp_path):
    one = case(left=(150, 60, 50), flags={"randomised": ""})
    fake.put(one.record, tmp_path)
    assert one.found.attacks == ("apgd-ce", "apgd-t") and one.worst.sum() == 50
    assert "further" not in report.summary([one]) and "finished on 1 of them" in report.summary([one])
    assert "Not checked yet." in report.flags([one]) and "Of 1 network: raised for none." in report.flags([one])
    assert "Of 1 network, 1 not checked: raised for none." in report.flags([one, case()])


def test_without_a_file_the_page_says_how_to_make_one(tmp_path):
    record = fake.record()
    fake.put(record, tmp_path)
    assert judge.cases(tmp_path, [record]) == []
    assert "`python -m study measure autoattack advprop --budget lite --dataset cifar10-jpeg`" in report.summary([])
    assert report.flags([]).count("<em></em>") == len(judge.FLAGS), "the rules stand there, and nothing came of them"


def test_the_cases_are_those_beside_the_records_in_the_papers_order(tmp_path):
    for key in ("advprop", "traditional"):
        record = fake.record(key, **{"corrected:clean": 0.75})
        fake.put(record, tmp_path)
        made_up(record).write(tmp_path, record)
    fake.put(fake.record("als"), tmp_path)
    found = judge.cases(tmp_path, records.collect(tmp_path))
    assert [one.record.key for one in found] == ["traditional", "advprop"]


def test_each_branch_and_the_experiments_beyond_the_paper_are_cases_after_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path))
    both = {"corrected:clean": 0.75, "corrected:clean:aux": 0.75}
    for key in ("als-0.2", "advprop", "adversarial"):
        fake.put(record := fake.record(key, **both), tmp_path)
        made_up(record).write(tmp_path, record)
    of_aux = made_up(group := fake.record("advprop", **both), AutoAttackOnAux)
    of_aux.write(tmp_path, group)
    found = judge.cases(tmp_path, records.collect(tmp_path))
    titles = [one.title for one in found]
    assert titles == [
        "Adversarial, corrected",
        "AdvProp, corrected",
        "AdvProp, corrected, auxiliary branch",
        "ALS, alpha 0.2, corrected",
    ]
    group = records.collect(tmp_path)
    html = report.every_network(masking.verdicts(group), found, group)
    names = [re.sub(r" ?<.*", "", line) for line in re.findall(r'<th scope="row">(.*?)</th>', html)]
    assert names[-2:] == titles[-2:], "what no verdict on masking speaks of"
    aux = next(one for one in found if one.branch == "aux")
    right = 100 * comparisons.survivors(aux.record, f"corrected:{comparisons.STRONG}:aux").mean()
    assert f"<td>{right:.1f}<" in html.split("auxiliary branch")[1], "of all the images of the record"


def test_an_auxiliary_branch_stands_beside_adversarial_training_with_the_difference_of_the_same_images(tmp_path):
    plain = case(fake.record("adversarial", **{"corrected:clean": 0.75}), left=(150, 60, 50, 50, 40))
    record = fake.record("advprop", **{"corrected:clean:aux": 0.75})
    aux = judge.case(record, made_up(record, AutoAttackOnAux, left=(150, 80, 70, 70, 60)))
    said = report.auxiliary([plain, aux], [plain.record, record])
    assert said.startswith("AutoAttack leaves 30.0 % of 200 images right in **AdvProp, corrected, auxiliary branch**, ")
    assert "+10.0 (" in said and said.endswith(") points from the 20.0 % of Adversarial, corrected.")
    assert report.auxiliary([aux], [record]).endswith("auxiliary branch**.")
    assert report.auxiliary([plain], [plain.record]) == ""


def test_the_figure_shows_what_is_left_and_says_it_in_words():
    one = case()
    figure = report.worst_case([one])
    dots = [bar.lines[0].get_xdata()[0] for bar in figure.axes[0].containers]
    plt.close(figure)
    assert dots == pytest.approx([30, 20, 20])
    words = report.worst_case_words([one])
    assert "30.0 % under PGD-20, 20.0 % after AutoAttack and 20.0 % in the worst case" in words["alt"]
    assert "the first 200 test images" in words["caption"]
