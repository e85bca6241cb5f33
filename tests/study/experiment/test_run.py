"""Claims about a whole run: a config becomes one record, which says what was done, and which the weights give again."""

import dataclasses
import json
import socket
import subprocess
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from advlib.attacks import cross_entropy
from study import records
from study.drawings import portrait
from study.experiment import build, evaluate, provenance, run, training
from study.experiment.precision import log_odds
from study.experiment.unfinished import Unfinished
from study.experiment.weights import load_weights, save_weights
from study.machine.folders import MEASURED
from study.plan import arithmetic, catalogue
from study.plan.attacks import suite
from study.plan.config import CHOICES
from study.records import packing
from study.records.packing import pack_mask

NAMES = {"key": "als-sat-advprop", "protocol": "corrected", "budget": "smoke"}
FULL_MIX = {
    "adversarial": True,
    "norm": "dual",
    "activation": "surrogate-relu",
    "loss": "als",
    "smoothing": 0.02,
    "train_random_start": True,
    "train_eps": 0.05,
}


@pytest.fixture(scope="module")
def tiny():
    return miniature.dataset(train_size=32, test_size=24)


@pytest.fixture
def data(monkeypatch, tiny):
    """A dataset that every run of the test loads, whatever its name."""
    monkeypatch.setattr(run, "load", lambda name: tiny)
    return tiny


@pytest.fixture
def few_attacks(monkeypatch):
    """A small part of the suite, some of it random: for tests that compare runs."""
    columns = {"clean", "fgsm-0.1", "noise-0.1"}
    monkeypatch.setattr(run, "suite", lambda **kind: [a for a in suite(**kind) if a.column in columns])


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """One run with every technique through the whole suite, and its folder of weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load", lambda name: tiny)
        work = tmp_path_factory.mktemp("work")
        return run.run(miniature.config(**FULL_MIX, seed=3), device="cpu", work=work, **NAMES), work


def go(work=None, **changes):
    return run.run(miniature.config(**changes), device="cpu", work=work, **NAMES)


def weights(experiment) -> dict:
    return miniature.state(experiment.model)


def masks(record) -> dict:
    return {m.name: m.mask.tolist() for m in record.measurements}


def test_a_run_becomes_a_record_of_its_config_data_cost_and_every_attack(whole, tiny):
    record, config = whole[0].record, miniature.config(**FULL_MIX, seed=3)
    assert {"key": record.key, "protocol": record.protocol, "budget": record.budget} == NAMES
    assert record.seed == 3 and record.config == config.to_dict()
    assert record.science_version == records.SCIENCE_VERSION
    assert record.stale_because(config, tiny.checksum) is None
    assert record.data["checksum"] == tiny.checksum and record.data["title"] == tiny.title
    assert (record.data["train_images"], record.data["test_images"]) == (32, 24)
    assert [entry["epoch"] for entry in record.curve] == [1, 2]
    names = {m.name for m in record.measurements}
    assert {attack.name for attack in suite(dual=True, surrogate=True)} <= names
    assert {m.n for m in record.measurements} == {24, 20}


def test_the_record_comes_back_from_its_file(whole, tmp_path):
    record = whole[0].record
    assert records.read(records.write(record, tmp_path / record.where / "record.json")) == record


def test_the_suite_is_that_of_the_models_branches_and_gradients(data, few_attacks):
    plain = {m.name for m in go().record.measurements}
    dual = {m.name for m in go(adversarial=True, norm="dual").record.measurements}
    surrogate = {m.name for m in go(activation="surrogate-relu").record.measurements}
    assert any(name.endswith(":aux") for name in dual) and any(name.endswith(":surrogate") for name in surrogate)
    assert not any(name.endswith((":aux", ":surrogate")) for name in plain)


def test_the_same_seed_gives_the_same_record_whatever_the_global_generator_and_another_seed_another(data, few_attacks):
    torch.manual_seed(1)
    first = go(**FULL_MIX)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = go(**FULL_MIX)
    assert torch.equal(torch.get_rng_state(), before)
    other = go(**FULL_MIX, seed=1)
    assert miniature.same(weights(first), weights(again)) and masks(first.record) == masks(again.record)
    assert not miniature.same(weights(first), weights(other)) and masks(first.record) != masks(other.record)


@pytest.mark.parametrize(
    "switch",
    [
        {"update": "two-steps"},
        {"loss": "label-smoothing"},
        {"augmentation": "published"},
        {"schedule": "one-cycle"},
        {"attack_branch": "main"},
        {"train_random_start": False},
        {"adversarial": False, "norm": "shared"},
    ],
    ids=str,
)
def test_what_the_config_says_is_what_is_trained(data, monkeypatch, switch):
    monkeypatch.setattr(run, "suite", lambda **kind: [])
    assert not torch.equal(go(**FULL_MIX).model.stem.weight, go(**{**FULL_MIX, **switch}).model.stem.weight)


def test_the_evaluation_follows_the_configs_seed_and_sweep(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(run, "evaluate", lambda *arguments, **options: seen.update(options) or [])
    go(seed=5, sweep_size=7)
    assert (seen["seed"], seen["sweep_size"]) == (5, 7)


class Killed(BaseException):
    """What no error handling catches."""


def test_a_run_killed_and_started_again_ends_as_if_it_had_not_been(data, few_attacks, tmp_path, monkeypatch):
    """Two steps an epoch, a checkpoint before each: killed in the middle of the first epoch, then of the second."""
    whole = go(**FULL_MIX, epochs=3)
    save, saves = training.save_checkpoint, []

    def save_and_die(path, *arguments):
        save(path, *arguments)
        saves.append(torch.load(path, weights_only=True)["begun"])
        if saves[-1]["steps"] == 1:
            raise Killed

    monkeypatch.setenv(training.SAVE_EVERY, "0")
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(training, "save_checkpoint", save_and_die)
            with pytest.raises(Killed):
                go(tmp_path, **FULL_MIX, epochs=3)
    monkeypatch.delenv(training.SAVE_EVERY)
    resumed = go(tmp_path, **FULL_MIX, epochs=3)
    assert miniature.same(weights(resumed), weights(whole)) and masks(resumed.record) == masks(whole.record)
    assert [entry["epoch"] for entry in resumed.record.curve] == [1, 2, 3]
    assert not list(tmp_path.glob("*partial*"))


def test_another_config_in_the_same_folder_is_trained_from_the_start_and_the_old_checkpoint_kept(
    data, few_attacks, tmp_path, capsys
):
    """What somebody does who changes a notebook's overrides and runs it again."""
    go(tmp_path, **FULL_MIX, epochs=1)
    longer = go(tmp_path, **FULL_MIX, epochs=2)
    assert miniature.same(weights(longer), weights(go(**FULL_MIX, epochs=2)))
    assert (tmp_path / "checkpoint.old").is_file() and "of another config" in capsys.readouterr().err


def test_an_evaluation_cut_off_goes_on_with_the_next_attack(data, few_attacks, tmp_path, monkeypatch):
    whole = go(**FULL_MIX)
    measure, measured = evaluate._measure, []

    def count(model, images, labels, attack, *rest):
        measured.append(attack.name)
        if len(measured) == 3:
            raise Killed
        return measure(model, images, labels, attack, *rest)

    monkeypatch.setattr(evaluate, "_measure", count)
    with pytest.raises(Killed):
        go(tmp_path, **FULL_MIX)
    resumed = go(tmp_path, **FULL_MIX)
    assert masks(resumed.record) == masks(whole.record)
    assert len(measured) == len(set(measured)) + 1, "only the attack that was cut off is measured again"


def test_a_half_measured_run_of_other_data_is_set_aside_and_not_finished_with_these(
    data, few_attacks, monkeypatch, tmp_path
):
    go(tmp_path, **FULL_MIX)
    more = dataclasses.replace(data, test_images=255 - data.test_images, checksum="sha256:changed")
    monkeypatch.setattr(run, "load", lambda name: more)
    again = go(tmp_path, **FULL_MIX)
    assert (tmp_path / "checkpoint.old").is_file()
    assert again.record.data["checksum"] == "sha256:changed"
    assert masks(again.record) == masks(go(**FULL_MIX).record)


def test_one_test_image_is_refused_before_the_training_that_its_evaluation_would_lose(monkeypatch):
    monkeypatch.setattr(run, "load", lambda name: miniature.dataset(test_size=1))
    with pytest.raises(ValueError, match="tiny: a test image alone has no statistics of its own: give two or more"):
        run.learn(miniature.config())


def test_an_evaluation_of_the_same_network_on_other_data_begins_anew(tmp_path):
    origin = {"config": {}, "weights": "0", "data": "sha256:then"}
    one = Unfinished(tmp_path / MEASURED, origin)
    one.add("clean", [])
    assert Unfinished(tmp_path / MEASURED, origin).get("clean") == []
    assert Unfinished(tmp_path / MEASURED, origin | {"data": "sha256:now"}).get("clean") is None


@pytest.mark.parametrize("damage", ["other weights", "half a file"])
def test_measurements_of_another_network_or_half_written_ones_are_not_used(data, few_attacks, tmp_path, damage):
    whole = go(tmp_path, **FULL_MIX)
    path = tmp_path / MEASURED
    text = path.read_text()
    if damage == "half a file":
        path.write_text(text[: len(text) // 2])
    else:
        wrong = json.loads(text)
        wrong["origin"]["weights"] = "0" * 64
        for found in wrong["measured"].values():
            for measurement in found:
                measurement["correct"] = pack_mask(np.zeros(measurement["n"], bool))
        path.write_text(json.dumps(wrong))
    assert masks(go(tmp_path, **FULL_MIX).record) == masks(whole.record)


def test_training_never_sees_the_test_images(data, few_attacks, monkeypatch):
    expected = weights(go(**FULL_MIX))
    inverted = dataclasses.replace(data, test_images=255 - data.test_images, test_labels=(data.test_labels + 1) % 4)
    monkeypatch.setattr(run, "load", lambda name: inverted)
    assert miniature.same(weights(go(**FULL_MIX)), expected)


def test_a_run_leaves_its_dataset_as_it_was(data, few_attacks):
    before = data.train_images.clone(), data.test_images.clone(), data.train_labels.clone(), data.test_labels.clone()
    go(**FULL_MIX, augmentation="published")
    after = data.train_images, data.test_images, data.train_labels, data.test_labels
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_fewer_test_images_than_a_figure_shows_are_shown_all(data, few_attacks):
    figure = portrait.gallery(go(test_size=2, sweep_size=2))
    assert [len(panel.images) for panel in figure.axes] == [1] * 2 * 4


def test_sizes_take_the_first_images(data, few_attacks, monkeypatch):
    part = data.subset(16, 10)
    expected = go(train_size=16, test_size=10)
    monkeypatch.setattr(run, "load", lambda name: part)
    assert miniature.same(weights(go()), weights(expected))
    assert (expected.record.data["train_images"], expected.record.data["test_images"]) == (16, 10)
    assert expected.record.measurements[0].n == 10


def test_the_model_comes_back_in_evaluation_mode(whole):
    experiment, _ = whole
    assert set(experiment.models) == {"true", "surrogate"} and experiment.model is experiment.models["true"]
    assert not any(m.training for model in experiment.models.values() for m in model.modules())


# --- weights ------------------------------------------------------------------------------------------------------


def again(path, config, data):
    model = load_weights(build.build_model(config, data), path).to(memory_format=torch.channels_last).eval()
    return build.gradients(model, config, data)


def test_saved_weights_re_evaluated_give_the_record(whole, tiny):
    experiment, work = whole
    assert not list(work.glob("*partial*"))
    config = miniature.config(**FULL_MIX, seed=3)
    models = again(work / "model.safetensors", config, tiny)
    assert miniature.same(miniature.state(models["true"]), weights(experiment))
    attacks = [attack for attack in suite(dual=True, surrogate=True) if attack.images == "all"]
    measured = evaluate.evaluate(
        models, tiny.test_images, tiny.test_labels, attacks, sweep_size=config.sweep_size, seed=config.seed
    )
    assert {m.name: m for m in measured}.items() <= {m.name: m for m in experiment.record.measurements}.items()


def test_half_precision_weights_are_half_the_size_and_nearly_the_model(whole, tiny, tmp_path):
    experiment, work = whole
    half = save_weights(experiment.model, tmp_path / "half" / "model.safetensors", dtype=torch.float16)
    sizes = [
        sum(t.numel() * t.element_size() for t in load_file(f).values()) for f in (half, work / "model.safetensors")
    ]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)
    x = tiny.test_images / 255
    near, exact = again(half, miniature.config(**FULL_MIX, seed=3), tiny)["true"](x), experiment.model(x)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.05)


def test_weights_of_another_config_are_refused(whole, tiny):
    with pytest.raises(ValueError, match=r"model.safetensors is no file of .*size mismatch"):
        load_weights(build.build_model(miniature.config(**FULL_MIX, width=16), tiny), whole[1] / "model.safetensors")


def test_a_full_disk_keeps_the_earlier_weights(data, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = build.build_model(miniature.config(), data)
    save_weights(model, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="cannot write .*model.safetensors .*No space left"):
        save_weights(model.half(), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# --- names to objects ---------------------------------------------------------------------------------------------


def test_every_choice_of_the_config_has_its_object(data):
    assert tuple(build.STEPS) == CHOICES["update"]
    assert tuple(build.LOSSES) == CHOICES["loss"]
    assert set(run.AUGMENTATIONS) == set(CHOICES["augmentation"])
    for name in ("activation", "norm"):
        for choice in CHOICES[name]:
            update = "one-forward" if choice == "dual-affine" else "joint"
            build.build_model(miniature.config(adversarial=True, update=update, **{name: choice}), data)
    for schedule in CHOICES["schedule"]:
        assert training.learning_rate(schedule, 0.2, 10) > 0


def test_losses_get_the_configs_smoothing():
    logits, labels = torch.tensor([[2.0, 1.0, 0.0, -1.0]]), torch.tensor([0])
    expected = {
        "cross-entropy": 0.4401896986,
        "als": 0.5001896986,
        "label-smoothing": 0.4701896986,
        "als-published": 0.5001896986,
    }
    for name, value in expected.items():
        assert build.LOSSES[name](0.02)(logits, labels).item() == pytest.approx(value, abs=1e-5), name


def test_initial_weights_follow_the_seed_alone_whatever_activation_and_norm(data):
    def start(**changes):
        return build.build_model(miniature.config(adversarial=True, **changes), data).state_dict()

    plain = start()
    for changes in ({"activation": "surrogate-relu"}, {"norm": "dual"}, {"lr": 1.0}):
        other = start(**changes)
        assert all(
            torch.equal(plain[name], other[name])
            for name in plain
            if "conv" in name or name.startswith(("stem.", "head"))
        )
    assert not torch.equal(plain["stem.weight"], start(seed=1)["stem.weight"])


def test_building_a_model_leaves_the_global_generator(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build.build_model(miniature.config(), data)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_is_made_for_its_data():
    data = miniature.dataset()
    model = build.build_model(miniature.config(activation="parametric-softplus", activation_alpha=3.0), data)
    assert model.head.out_features == len(data.classes) and model.stem.in_channels == 3
    assert model.standardise.mean.flatten().tolist() == pytest.approx(data.mean)
    assert model.standardise.std.flatten().tolist() == pytest.approx(data.std)
    assert model.stem_act.alpha == 3.0


def test_a_random_start_is_drawn_if_the_config_says_so_and_from_its_generator_alone(data):
    model = build.build_model(miniature.config(), data).eval()
    x, y = data.train_images[:8] / 255, data.train_labels[:8]

    def twins(seed, **changes):
        config = miniature.config(adversarial=True, train_eps=0.2, train_step_size=0.001, **changes)
        return build.training_attack(config, torch.Generator().manual_seed(seed))(model, x, y)

    assert torch.equal(twins(0), twins(1))
    assert torch.equal(twins(0, train_random_start=True), twins(0, train_random_start=True))
    assert not torch.equal(twins(0, train_random_start=True), twins(1, train_random_start=True))
    assert (twins(0, train_random_start=True) - x).abs().max() > 0.1 > (twins(0) - x).abs().max()


@pytest.mark.parametrize("precision", ["auto", "fast"])
@pytest.mark.parametrize(
    "capability, expected",
    [
        ((6, 1), None),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
)
def test_on_a_gpu_auto_precision_is_bfloat16_or_else_what_its_tensor_cores_have(
    monkeypatch, precision, capability, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert run.training_dtype(precision, torch.device("cuda")) == expected


@pytest.mark.parametrize("precision", ["auto", "fast"])
@pytest.mark.parametrize("native", [True, False, None])  # None: a torch that does not say
def test_elsewhere_auto_precision_is_bfloat16_or_float32_and_never_float16(monkeypatch, precision, native):
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: native, raising=False)
        if native is None:
            monkeypatch.delattr(torch.cpu, probe)
    assert run.training_dtype(precision, torch.device("cpu")) == (torch.bfloat16 if native else None)
    assert run.training_dtype(precision, torch.device("mps")) is None


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_precision_that_is_named_is_taken_anywhere(device):
    named = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: run.training_dtype(name, torch.device(device)) for name in named} == named


def test_a_training_in_float16_raises_the_log_odds_and_any_other_the_cross_entropy(data, few_attacks, monkeypatch):
    raised, real = [], build.pgd
    monkeypatch.setattr(
        build, "pgd", lambda *args, **options: raised.append(options["objective"]) or real(*args, **options)
    )
    for precision in ("fp16", "bf16", "float32"):
        done = go(precision=precision, adversarial=True, epochs=1)
        assert done.record.provenance["precision"] == {"fp16": "float16", "bf16": "bfloat16"}.get(precision, "float32")
        assert set(raised) == {log_odds if precision == "fp16" else cross_entropy}
        raised.clear()


def test_the_precision_of_training_is_used_and_recorded(data, few_attacks):
    exact, rough = go(precision="float32"), go(precision="bf16")
    assert (exact.record.provenance["precision"], rough.record.provenance["precision"]) == ("float32", "bfloat16")
    assert not miniature.same(weights(exact), weights(rough))


# --- what it says about itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, 1),
        ({"adversarial": True, "train_steps": 2}, 4),
        ({"adversarial": True, "train_steps": 2, "update": "two-steps"}, 4),
        ({"adversarial": True, "train_steps": 7}, 9),
    ],
)
def test_the_passes_of_a_step_are_those_that_the_model_sees(data, changes, expected):
    config = miniature.config(epochs=1, batch_size=32, **changes)
    model = build.build_model(config, data)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    miniature.fit(config, data, model=model)
    assert arithmetic.passes(config) == {"forward": expected, "backward": expected}
    assert len(seen) == expected


def test_cost_counts_steps_and_images_of_whole_batches(data):
    config = miniature.config(epochs=3, batch_size=16)
    curve = [{"seconds": 0.5}] * 3
    cost = provenance.cost(config, 70, curve, 2.0)
    assert cost["steps"] == 12
    assert (cost["training_seconds"], cost["evaluation_seconds"]) == (1.5, 2.0)
    assert cost["training_images_per_second"] == pytest.approx(3 * 64 / 1.5, abs=0.1)


def repository(folder: Path, *files: str) -> None:
    """A git repository in ``folder`` that has these files committed."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "--", *files], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)


def copy_of_the_code(folder: Path) -> Path:
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "run.py").write_text("pass\n")
    return folder.resolve()


def test_a_commit_is_told_of_this_projects_repository_and_whether_it_was_changed_since(tmp_path):
    root = copy_of_the_code(tmp_path)
    repository(root, "study/run.py")
    clean = provenance.code(root)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (root / "study" / "run.py").write_text("raise\n")
    assert provenance.code(root) == clean | {"dirty": True}


@pytest.mark.parametrize(
    "place, committed",
    [(".venv/lib", []), ("vendored", ["vendored/study/run.py"]), ("unpacked", []), ("", [])],
    ids=["installed", "installed and committed", "unpacked below", "unpacked at the top"],
)
def test_what_somebody_elses_repository_around_the_code_says_is_not_told(tmp_path, place, committed):
    root = copy_of_the_code(tmp_path / place)
    repository(tmp_path, *committed)
    assert provenance.code(root) == {"commit": None, "dirty": None}


def test_without_git_the_commit_is_unknown_and_a_run_goes_on(tmp_path, monkeypatch):
    root = copy_of_the_code(tmp_path)
    repository(root, "study/run.py")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code(root) == {"commit": None, "dirty": None}
    assert provenance.provenance(torch.device("cpu"), None)["commit"] is None


def test_provenance_names_code_versions_and_device_but_neither_place_nor_host(whole):
    record = whole[0].record
    told = record.provenance
    assert (
        told["versions"]["torch"] == torch.__version__.split("+")[0] or told["versions"]["torch"] == torch.__version__
    )
    assert {"python", "torch", "torchvision", "numpy"} <= set(told["versions"]) and told["device"].startswith("cpu: ")
    assert {"commit", "dirty", "threads", "precision"} <= set(told)
    text = json.dumps({"provenance": told, "data": record.data, "cost": record.cost})
    assert (
        socket.gethostname() not in text and "/home" not in text and str(run.Path(run.__file__).parents[2]) not in text
    )


def test_a_record_of_a_full_run_is_small_enough_to_commit(whole, tmp_path):
    """At most 100 KB: the largest suite, ten thousand images, a hundred epochs, accuracies as in Table 1."""
    record, rng = whole[0].record, np.random.default_rng(0)
    published = catalogue.rows()["als-sat-advprop"].published

    def filled(m):
        n = 10_000 if m.attack["images"] == "all" else catalogue.config("sat").sweep_size
        return dataclasses.replace(m, n=n, correct=packing.pack_mask(rng.random(n) < published.get(m.column, 50) / 100))

    full = dataclasses.replace(
        record, measurements=tuple(filled(m) for m in record.measurements), curve=record.curve * 50
    )
    assert records.write(full, tmp_path / "record.json").stat().st_size <= 100_000
