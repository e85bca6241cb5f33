"""What is measured of a network lies beside its record: it comes back, or is refused with the command that mends it."""

import base64
import dataclasses
import json
import re
import shlex
from hashlib import sha256

import fake_records as fake
import numpy as np
import pytest
from places import ROOT
from torch import nn

from study import __main__ as command_line
from study import records
from study.experiment.weights import save_weights
from study.findings.autoattack.judge import AutoAttack, AutoAttackOnAux
from study.findings.branches import judge as branches
from study.findings.branches.judge import Combinations
from study.findings.corruptions.judge import SEVERITIES, Corruptions
from study.findings.masking.probes import Probe
from study.findings.overfitting import judge as overfitting
from study.findings.overfitting.judge import Watched
from study.grid import execute
from study.records import Measurement
from study.records.columns import Columns
from study.records.packing import pack_mask

N = fake.IMAGES
RIGHT = N // 2  # on clean images, and under everything else
NONE = pack_mask(np.zeros(N, bool))
ELSEWHERE = "lite/cifar10-jpeg/corrected/als/seed0"
NAMES = {  # of the measurements of a small file of each kind
    Probe: ["probe:clean", "probe:pgd-20-8/255", "probe:unbounded"],
    AutoAttack: ["autoattack:clean", "autoattack:apgd-ce", "autoattack:apgd-t"],
    AutoAttackOnAux: ["autoattack:clean", "autoattack:apgd-ce", "autoattack:apgd-t"],
    Corruptions: ["corrupted:clean", *(f"corrupted:fog-{severity}" for severity in SEVERITIES)],
    Combinations: [
        branches.measurement(way, pair, column)
        for way in branches.WAYS
        for pair in branches.PAIRS
        for column in branches.COLUMNS
    ],
    Columns: [
        "corrected:clean",
        "corrected:pgd-0.1",
        "corrected:clean:aux",
        "recalibrated:clean",
        "recalibrated:pgd-0.1",
    ],
    Watched: [
        f"epoch-{epoch}:corrected:{column}:aux"
        for epoch in (1, 2)
        for column in overfitting.columns(fake.record("sat-advprop").as_config())
    ],
}
OWN = {
    Probe: {"zero_gradient": NONE, "vanishing_gradient": NONE, "loss": {"0": 1.0}, "last_step": (-0.5, 0.25)},
    AutoAttack: {"seconds": {"apgd-ce": 1.5}, "flags": {"square": ""}},
    AutoAttackOnAux: {"seconds": {"apgd-ce": 1.5}, "flags": {"square": ""}},
    Corruptions: {"made_by": {"library": "1.0"}, "pixels": {"fog": "a digest"}},
    Combinations: {"training_images": 64},
    Columns: {"training_images": 64},
    Watched: {},
}
WITNESSES = {  # the clean predictions by which a network is known
    Probe: ["probe:clean"],
    AutoAttack: ["autoattack:clean"],
    AutoAttackOnAux: ["autoattack:clean"],
    Corruptions: ["corrupted:clean"],
    Combinations: ["kept:main+main:clean", "kept:aux+aux:clean"],
    Columns: ["corrected:clean", "corrected:clean:aux"],
    Watched: ["epoch-2:corrected:clean:aux"],
}
KINDS = pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.KIND)


def record(**changes) -> records.Record:
    """Of a row that every kind can be measured of."""
    return fake.record("sat-advprop", **{"corrected:clean": 0.5, "corrected:clean:aux": 0.5}, **changes)


def made(kind, of: records.Record, weights: str | None = None, **right: int):
    """A file of ``of``. ``right``: the name of a measurement -> how many of the first images are right in it."""
    column = {name: name.removesuffix(":aux").rpartition(":")[2] for name in NAMES[kind]}
    measurements = [
        Measurement(name, column[name], {}, N, pack_mask(np.arange(N) < right.get(name, RIGHT))) for name in NAMES[kind]
    ]
    weights = "w" * 64 * (kind is not Watched) if weights is None else weights
    return kind(**fake.about(of, weights=weights), measurements=tuple(measurements), **OWN[kind])


def refusal(kind, path, of, weights=None) -> str:
    with pytest.raises(ValueError) as error:
        kind.read(path, of, weights)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def remedy(message: str):
    """What the command line makes of the command that a message ends with."""
    return command_line._parser().parse_args(shlex.split(message[message.index("python -m study ") :])[3:])


def test_every_kind_is_put_to_the_test():
    def kinds(of) -> set:
        return set().union(*({one, *kinds(one)} for one in of.__subclasses__()))

    assert kinds(records.beside.Beside) == set(NAMES)


# what comes back


@KINDS
def test_a_file_comes_back_as_it_was_written_and_nothing_partial_stays(kind, tmp_path):
    of = record()
    found = made(kind, of)
    path = found.write(tmp_path, of)
    assert path == tmp_path / of.where / kind.FILE and kind.read(path, of, found.weights) == found
    assert [entry.name for entry in path.parent.iterdir()] == [kind.FILE]
    for measurement in found.measurements:
        (line,) = [line for line in path.read_text().splitlines() if f'"name":"{measurement.name}"' in line]
        assert json.loads(line.strip().rstrip(","))["correct"] == measurement.correct, "one difference, one line"


@KINDS
def test_a_mask_is_that_of_the_measurement_of_its_name(kind):
    last = NAMES[kind][-1]
    found = made(kind, record(), **{last: 7})
    name = last.partition(":")[2] if kind in (Probe, Corruptions) else last  # these two are asked without their own
    assert (found.mask(name) == (np.arange(N) < 7)).all()
    with pytest.raises(KeyError):
        found.mask("another")


@KINDS
def test_a_run_that_is_made_anew_takes_the_file_of_the_old_network_away(kind):
    assert kind.FILE in execute.OF_THE_NETWORK


# what is damaged


def in_first(**changes):
    """Change fields of the first measurement."""
    return lambda raw: raw["measurements"][0].update(changes)


DAMAGED = {
    "another field": (lambda raw: raw.update(remark="x"), r"unknown fields \['remark'\]"),
    "a field less": (lambda raw: raw.pop("provenance"), r"missing \['provenance'\]"),
    "another field in a measurement": (in_first(remark="x"), r"Measurement: unknown fields \['remark'\]"),
    "a field less in a measurement": (lambda raw: raw["measurements"][0].pop("n"), r"Measurement: .*missing \['n'\]"),
    "no measurements": (lambda raw: raw.update(measurements=None), "not list"),
    "two of one name": (lambda raw: raw["measurements"].append(raw["measurements"][0]), "have one name"),
    "a shorter mask": (in_first(correct=pack_mask(np.ones(N // 2, bool))), f"cannot hold {N} images"),
    "a mask of one image less": (in_first(n=N - 1), f"is of {N - 1} images, and the file of {N}"),
    "more images than masks": (lambda raw: raw.update(images=N + 8), f"is of {N} images, and the file of {N + 8}"),
    "a mask that is not deflated": (in_first(correct=base64.b85encode(b"no zlib").decode()), "decompress"),
    "a mask that is no text of masks": (in_first(correct='"?"'), "base85"),
    "a mask that is no text": (in_first(correct=1), "int"),
    "the schema of before": (lambda raw: raw.update(schema=1), "schema 1, this study reads 2"),
}


@KINDS
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_with_the_reason_and_the_remedy(kind, damage, tmp_path):
    spoil, why = DAMAGED[damage]
    of = record()
    path = made(kind, of).write(tmp_path, of)
    raw = json.loads(path.read_text())
    spoil(raw)
    path.write_text(json.dumps(raw))
    said = refusal(kind, path, of)
    assert re.search(rf"is no {kind.FILE} of this study \(.*{why}.*\): measure again: python -m study", said), said


@KINDS
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"2", b'"text"', b"\xff\xfe", "half"], ids=str)
def test_what_is_no_such_file_at_all_is_refused_with_the_remedy(kind, content, tmp_path):
    of = record()
    path = made(kind, of).write(tmp_path, of)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert f"is no {kind.FILE} of this study (" in refusal(kind, path, of)


# what is foreign


@KINDS
@pytest.mark.parametrize(
    ("change", "why"),
    [({"record": ELSEWHERE}, f"it is of {ELSEWHERE}"), ({"record_digest": "0"}, "the record has changed since")],
)
def test_the_file_of_another_record_is_refused_with_the_remedy(kind, change, why, tmp_path):
    of = record()
    path = fake.beside(made(kind, of), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert f"does not belong to {of.where} ({why}): measure again: python -m study" in refusal(kind, path, of)


@KINDS
def test_a_record_that_is_made_again_makes_the_file_foreign(kind, tmp_path):
    of = record()
    path = made(kind, of).write(tmp_path, of)
    again = dataclasses.replace(of, cost=of.cost | {"training_seconds": 4.0})
    assert "(the record has changed since): measure again" in refusal(kind, path, again)


@KINDS
def test_a_file_of_other_weights_is_refused_unless_it_is_of_none(kind, tmp_path):
    of = record()
    path = made(kind, of, weights="w" * 64).write(tmp_path, of)
    assert kind.read(path, of, "w" * 64) and kind.read(path, of), "where nobody knows of which it has to be"
    assert "(the weights have changed since): measure again" in refusal(kind, path, of, "v" * 64)
    path = made(kind, of, weights="").write(tmp_path, of)
    assert kind.read(path, of, "v" * 64), "the network was trained once more"


@KINDS
def test_a_network_is_known_by_its_clean_predictions(kind, tmp_path):
    """Of 200, two may be another: 99 % agree. Eight may not: 96 %."""
    of = record()
    for witness in WITNESSES[kind]:
        path = made(kind, of, **{witness: RIGHT + 2}).write(tmp_path, of)
        assert kind.read(path, of).measurements
        path = fake.beside(made(kind, of, **{witness: RIGHT + 8}), tmp_path)
        assert "(they agree on 96.0% of images only, corrected:clean" in refusal(kind, path, of)


@KINDS
def test_a_file_of_more_images_than_the_record_has_is_refused_unless_that_is_what_it_is_for(kind, tmp_path):
    of = record()
    path = fake.beside(made(kind, of), tmp_path)
    clean = [dataclasses.replace(m, n=N // 2, correct=pack_mask(m.mask[: N // 2])) for m in of.measurements]
    fewer = dataclasses.replace(of, measurements=tuple(clean))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record_digest": records.digest(fewer)}))
    if not kind.BEYOND:
        assert f"(it is of {N} images, and the record of {N // 2})" in refusal(kind, path, fewer)
        return
    assert kind.read(path, fewer).images == N
    turned = [dataclasses.replace(m, correct=pack_mask(~m.mask)) for m in fewer.measurements]
    other = dataclasses.replace(fewer, measurements=tuple(turned))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record_digest": records.digest(other)}))
    assert "(they agree on 0.0% of images only, corrected:clean" in refusal(kind, path, other), "on those of both"


@KINDS
def test_a_file_of_no_image_is_refused(kind, tmp_path):
    of = record()
    nothing = {"n": 0, "correct": pack_mask(np.zeros(0, bool))}
    empty = [dataclasses.replace(measurement, **nothing) for measurement in made(kind, of).measurements]
    own = {name: nothing["correct"] for name in OWN[kind] if name.endswith("gradient")}
    found = dataclasses.replace(made(kind, of), images=0, measurements=tuple(empty), **own)
    assert "images: 0 is not from 1" in refusal(kind, fake.beside(found, tmp_path), of)


# the remedy


@KINDS
@pytest.mark.parametrize(
    "of",
    [
        fake.record("sat-advprop"),
        fake.record("als-0.2", seed=3),
        fake.record("advprop", "published", "full", seed=2, dataset="cifar10"),
        fake.record("als", "published-loss", dataset="folder:my pictures; rm", title="Mine"),
        fake.record("sat", budget="smoke"),
    ],
    ids=lambda of: of.where,
)
def test_the_remedy_is_a_command_that_measures_this_kind_of_this_very_run(kind, of, tmp_path):
    path = tmp_path / kind.FILE
    absent = refusal(kind, path, of)
    path.write_text("{}")
    for said, anew in ((absent, False), (refusal(kind, path, of), True)):
        options = remedy(said)
        assert (options.command, options.kind, options.keys) == (command_line.measure, kind.KIND, [of.key])
        asked = (options.protocol, options.budget, options.dataset, options.seed)
        assert asked == (of.protocol, of.budget, of.config["dataset"], of.seed)
        assert command_line._cell(options, of.key).where == of.where and options.anew is anew
    assert "is not there: measure: " in absent


# what is written


@KINDS
@pytest.mark.parametrize("change", ["another record", "another network", "a contradiction"])
def test_what_is_foreign_or_contradicts_itself_is_not_written_and_what_is_there_stays(kind, change, tmp_path):
    of = record()
    path = made(kind, of).write(tmp_path / "there", of)
    before = path.read_bytes()
    wrong = {
        "another record": dataclasses.replace(made(kind, of), record_digest="0"),
        "another network": made(kind, of, **{WITNESSES[kind][0]: RIGHT + 8}),
        "a contradiction": dataclasses.replace(made(kind, of), images=N - 1),
    }[change]
    for root in (tmp_path / "there", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="nothing was written" if change != "a contradiction" else "images"):
            wrong.write(root, of)
    assert path.read_bytes() == before and not (tmp_path / "nothing").exists()


# what lies beside records


@KINDS
def test_files_are_found_beside_their_records_and_a_damaged_one_is_not_passed_over(kind, tmp_path):
    of, other = record(), record(seed=1)
    found = made(kind, of)
    path = found.write(tmp_path, of)
    assert kind.collect(tmp_path, [other, of]) == {of.where: found}
    assert kind.collect(tmp_path / "none", [of]) == {}
    path.write_text("{}")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        kind.collect(tmp_path, [other, of])


@KINDS
def test_published_weights_that_are_the_records_have_to_be_those_that_were_measured(kind, tmp_path):
    of, model = record(), tmp_path / "models" / "sat-advprop.safetensors"
    save_weights(nn.Linear(2, 2), model, of)
    digest = sha256(model.read_bytes()).hexdigest()
    found = made(kind, of, digest)
    found.write(tmp_path / "results", of)
    assert kind.collect(tmp_path / "results", [of]) == {of.where: found}
    save_weights(nn.Linear(2, 2), model, of)
    assert sha256(model.read_bytes()).hexdigest() != digest
    with pytest.raises(ValueError, match="the weights have changed since"):
        kind.collect(tmp_path / "results", [of])
    for no_reason in (dataclasses.replace(of, seed=1), None):  # another run's, and nobody knows whose
        save_weights(nn.Linear(2, 2), model, no_reason)
        assert kind.collect(tmp_path / "results", [of]) == {of.where: found}


@KINDS
def test_what_was_measured_of_other_weights_than_the_published_ones_is_not_written_over_what_is_there(kind, tmp_path):
    of, model = record(), tmp_path / "models" / "sat-advprop.safetensors"
    save_weights(nn.Linear(2, 2), model, of)
    good = made(kind, of, sha256(model.read_bytes()).hexdigest())
    path = good.write(tmp_path / "results", of)
    with pytest.raises(ValueError, match="leave --weights out.*nothing was written"):
        made(kind, of, "x" * 64).write(tmp_path / "results", of)
    assert kind.read(path, of, good.weights) == good


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"\2\0\0\0\0\0\0\0[]", b"\xff" * 40])
def test_published_weights_that_are_damaged_are_named_with_the_remedy(content, tmp_path):
    of, model = record(), tmp_path / "models" / "sat-advprop.safetensors"
    made(Probe, of).write(tmp_path / "results", of)
    model.parent.mkdir()
    model.write_bytes(content)
    with pytest.raises(ValueError, match=f"{model} is no file of weights .*: fetch it again, or move it away"):
        Probe.collect(tmp_path / "results", [of])


@KINDS
def test_every_committed_file_belongs_to_its_record_and_to_the_published_weights(kind):
    paths = sorted((ROOT / "results").glob(f"lite/*/*/*/seed*/{kind.FILE}"))
    group = [records.read(path.with_name("record.json")) for path in paths]
    found = kind.collect(ROOT / "results", group)
    assert [ROOT / "results" / place / kind.FILE for place in found] == paths != []
    for one in found.values():
        assert one.images >= 100 and one.provenance["device"]
        model = ROOT / "models" / f"{one.record.split('/')[-2]}.safetensors"
        assert one.weights == ("" if kind is Watched else sha256(model.read_bytes()).hexdigest())
