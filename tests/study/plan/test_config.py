"""Claims about an experiment's description: nothing impossible gets in, nothing that matters is left out."""

import dataclasses

import pytest

from study.plan.config import CHOICES, SINCE, Config

FIELDS = {field.name: field.type for field in dataclasses.fields(Config)}
# A base in which every single field can be changed alone, and a second value for each.
BASE = Config(adversarial=True, loss="als", smoothing=0.1)
OTHER = {
    "dataset": "svhn",
    "train_size": 7,
    "test_size": 7,
    "strong_size": 7,
    "sweep_size": 7,
    "width": 16,
    "activation": "silu",
    "activation_alpha": 9.0,
    "norm": "dual",
    "loss": "label-smoothing",
    "smoothing": 0.2,
    "adversarial": False,
    "train_eps": 0.2,
    "train_step_size": 0.2,
    "train_steps": 7,
    "train_random_start": True,
    "attack_space": "standardised",
    "attack_mode": "train",
    "attack_branch": "main",
    "update": "two-steps",
    "epochs": 7,
    "batch_size": 7,
    "last_batch": "kept",
    "lr": 0.2,
    "momentum": 0.8,
    "weight_decay": 0.2,
    "schedule": "one-cycle",
    "head_bias": "torch",
    "augmentation": "none",
    "precision": "bf16",
    "evaluation": "tf32",
    "seed": 7,
}
WRONG_TYPES = {
    int: (True, 1.0, "1", None),
    float: (True, "0.1", None, [0.1]),
    bool: (1, 0, "False", None),
    str: (3, None, True, ["relu"]),
}
IMPOSSIBLE = {  # field -> impossible values and the remedy that the message must state
    "train_size": ([-1], "0 or more"),
    "test_size": ([-1], "0 or more"),
    "strong_size": ([-1], "0 or more"),
    "sweep_size": ([0, -1], "at least 1"),
    "seed": ([-1], "0 or more"),
    "width": ([0, -8], "at least 1"),
    "epochs": ([0, -1], "at least 1"),
    "batch_size": ([0, -1], "at least 1"),
    "train_steps": ([-1], "0 or more"),
    "train_eps": ([-0.1], "0 or more"),
    "train_step_size": ([-0.1], "0 or more"),
    "weight_decay": ([-5e-4], "0 or more"),
    "lr": ([0.0, -0.1], "more than 0"),
    "activation_alpha": ([0.0, -10.0], "more than 0"),
    "momentum": ([-0.1, 1.0, 1.5], r"in \[0, 1\)"),
    "smoothing": ([-0.1, 1.0, 1.5], r"in \[0, 1\)"),
    **{name: (["no-such-name"], ", ".join(CHOICES[name])) for name in CHOICES},
}


def test_the_tables_of_this_file_cover_every_field():
    assert OTHER.keys() == FIELDS.keys()
    without_impossible_values = {"dataset", "adversarial", "train_random_start"}
    assert IMPOSSIBLE.keys() == FIELDS.keys() - without_impossible_values


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_type_is_refused_by_name_value_and_the_right_type(name):
    for value in WRONG_TYPES[FIELDS[name]]:
        with pytest.raises(TypeError) as error:
            BASE.change(**{name: value})
        message = str(error.value)
        assert f"{name}={value!r}" in message and FIELDS[name].__name__ in message, message


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_name_value_and_remedy(name):
    values, remedy = IMPOSSIBLE[name]
    for value in values:
        with pytest.raises(ValueError, match=remedy) as error:
            BASE.change(**{name: value})
        assert name in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize("name", [name for name, kind in FIELDS.items() if kind is float])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        BASE.change(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [{"momentum": 0.0}, {"train_eps": 0.0}, {"train_steps": 0}, {"weight_decay": 0.0}, {"width": 8, "epochs": 1}],
)
def test_the_edges_of_what_is_possible_are_allowed(changes):
    config = BASE.change(**changes)
    assert all(getattr(config, name) == value for name, value in changes.items())


@pytest.mark.parametrize(
    "loss, smoothing", [("als", 0.0), ("als-published", 0.0), ("label-smoothing", 0.0), ("cross-entropy", 0.1)]
)
def test_a_loss_and_a_smoothing_that_contradict_each_other_are_refused(loss, smoothing):
    with pytest.raises(ValueError, match=f"loss={loss!r} with smoothing={smoothing}"):
        Config(loss=loss, smoothing=smoothing)


@pytest.mark.parametrize("norm", ["dual", "dual-except-shortcuts"])
def test_an_auxiliary_branch_that_nothing_would_train_is_refused(norm):
    with pytest.raises(ValueError, match="adversarial=True"):
        Config(norm=norm)


@pytest.mark.parametrize(
    "name, typo, meant",
    [("norm", "duel", "dual"), ("activation", "surogate-relu", "surrogate-relu"), ("schedule", "cosin", "cosine")],
)
def test_a_misspelt_choice_is_answered_with_the_nearest(name, typo, meant):
    with pytest.raises(ValueError, match=f"{typo!r}: did you mean {meant!r}"):
        BASE.change(**{name: typo})


def test_a_misspelt_parameter_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(ValueError, match="unknown parameter 'smothing': did you mean 'smoothing'") as error:
        Config().change(smothing=0.1)
    assert all(name in str(error.value) for name in FIELDS)
    with pytest.raises(TypeError):
        Config(smothing=0.1)


def test_change_gives_a_validated_copy_and_leaves_the_original():
    config = Config()
    changed = config.change(width=16, seed=3)
    assert (changed.width, changed.seed) == (16, 3)
    assert (config.width, config.seed) == (64, 0)
    assert config.differences(changed) == {"width": (64, 16), "seed": (0, 3)}
    assert config.differences(config.change()) == {}


def test_a_whole_number_is_taken_where_a_length_is_meant_and_means_the_same():
    config = Config(lr=1, train_eps=0)
    assert isinstance(config.lr, float) and isinstance(config.train_eps, float)
    assert config == Config(lr=1.0, train_eps=0.0)


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().width = 8


def test_a_config_comes_back_from_its_dictionary():
    assert Config(**BASE.to_dict()) == BASE
    assert BASE.to_dict().keys() == FIELDS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_two_configs_differ_by_the_field_that_was_changed(name):
    changed = BASE.change(**{name: OTHER[name]})
    assert BASE.differences(changed).keys() == {name}


def test_a_field_that_older_records_lack_has_the_value_that_they_were_made_with():
    without = {name: value for name, value in BASE.to_dict().items() if name not in SINCE}
    assert len(SINCE) > 0 and Config(**without) == BASE


def test_an_epoch_sees_all_images_or_those_of_its_complete_batches():
    assert Config(batch_size=256).images_an_epoch(50_000) == 195 * 256
    assert Config(batch_size=256, last_batch="kept").images_an_epoch(50_000) == 50_000


def test_the_defaults_are_the_corrected_baseline_at_full_size():
    """The decisions that the design makes aloud."""
    config = Config()
    assert not config.adversarial and config.norm == "shared" and config.loss == "cross-entropy"
    assert (config.attack_space, config.attack_mode, config.attack_branch) == ("pixels", "eval", "aux")
    assert (config.update, config.schedule, config.augmentation) == ("joint", "cosine", "crop-flip")
    assert (config.epochs, config.batch_size, config.width) == (100, 256, 64)
    assert (config.lr, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-4)
    assert (config.train_eps, config.train_step_size, config.train_steps) == (0.1, 2 / 255, 2)


@pytest.mark.parametrize("width", [1, 6, 12])
def test_a_width_that_crashes_some_processors_is_refused(width):
    with pytest.raises(ValueError, match=f"width={width} must be a multiple of 8"):
        Config(width=width)
