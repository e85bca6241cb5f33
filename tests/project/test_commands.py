"""What the commands that read records print, and how they refuse."""

import ast
import csv
import io
import json
import re
import runpy
import shlex
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

import fake_records as fake
import pytest
import torch
from places import ROOT
from safetensors.torch import save_file

from study import data, grid
from study.__main__ import _parser, main
from study.__main__ import run as runs
from study.findings.claims import judge
from study.findings.masking.probes import Probe
from study.plan import catalogue


@pytest.fixture
def results(tmp_path):
    for key in ("traditional", "advprop"):
        for protocol in catalogue.PROTOCOLS:
            fake.put(fake.record(key, protocol), tmp_path)
    return tmp_path


def printed(capsys, *arguments) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_who_asks_the_method_for_a_command_is_told_where_the_commands_are():
    with pytest.raises(SystemExit, match="python -m study --help"):
        runpy.run_module("advlib", run_name="__main__")


def test_a_network_that_diverged_ends_a_command_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("study.__main__.status", Mock(side_effect=FloatingPointError("the logits are not finite")))
    assert main(["status"]) == 2
    assert capsys.readouterr().err == "study: the logits are not finite\n"


@pytest.mark.parametrize("how", [[], ["--force"]])
def test_a_gpus_run_on_a_cpu_says_first_how_long_it_will_take(how, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("study.grid.gate.Pace", lambda *_: lambda seconds: (16, 2.0))
    monkeypatch.setattr("study.grid.execute.execute", Mock(side_effect=RuntimeError("no more of it")))
    assert main(["run", "als", "--budget", "brief", "--results", str(tmp_path), *how]) == 2
    assert "takes about 14 hours" in capsys.readouterr().err.replace("\n", " ")


def test_table_prints_the_papers_numbers_and_ours(results, capsys):
    text = printed(capsys, "table", "1", "--protocol", "corrected", "--results", str(results))
    accuracy = 100 * fake.record("advprop").measurement("corrected:clean").accuracy
    assert "CIFAR-10, JPEG copy, budget lite" in text and "Protocol corrected" in text
    assert f"{accuracy:.1f} [" in text and "93.16" in text and "not run" in text


def test_table_as_csv_has_every_row_and_the_ends_of_each_interval(results, capsys):
    text = printed(capsys, "table", "1", "--csv", "--results", str(results))
    head, kinds, *lines = csv.reader(io.StringIO(text))
    assert [line[0] for line in lines] == [key for key, row in catalogue.rows().items() if row.paper_table == 1]
    assert {"paper", "value", "low", "high"} <= set(kinds) and "FGSM 0.1" in head


def test_claims_prints_every_claim_and_json_names_the_records(results, capsys):
    text = printed(capsys, "claims", "--results", str(results))
    assert all(claim.title in text for claim in judge.claims())
    entries = json.loads(printed(capsys, "claims", "--json", "--results", str(results)))
    (comparison,) = next(e for e in entries if e["id"] == "advprop-accuracy")["comparisons"]
    assert comparison["records"] == [fake.record(key, "published").where for key in ("advprop", "traditional")]


def test_verdicts_prints_every_network_and_json_names_the_records(results, capsys):
    text = printed(capsys, "verdicts", "--results", str(results))
    entries = json.loads(printed(capsys, "verdicts", "--json", "--results", str(results)))
    assert [(entry["row"], entry["protocol"]) for entry in entries] == [
        (key, protocol) for key in ("traditional", "advprop") for protocol in catalogue.PROTOCOLS
    ]
    for entry in entries:
        title = f"{catalogue.rows()[entry['row']].name}, {entry['protocol']}"
        (line,) = [line for line in text.splitlines() if line.startswith(title)]
        assert line.endswith(entry["verdict"])
        assert entry["records"] == [fake.record(entry["row"], entry["protocol"]).where]


def test_a_probe_that_does_not_belong_to_its_record_is_refused(results, capsys):
    folder = results / fake.record("advprop").where
    (folder / "probe.json").write_text("{}")
    assert main(["verdicts", "--results", str(results)]) == 2
    assert "python -m study measure masking advprop --protocol corrected" in capsys.readouterr().err


def test_without_a_record_that_counts_the_commands_say_where_to_look(tmp_path, capsys):
    fake.put(fake.record(budget="smoke"), tmp_path)
    assert main(["claims", "--results", str(tmp_path)]) == 2
    assert "status --budget lite" in capsys.readouterr().err


def test_a_protocol_between_the_two_has_a_table_of_the_rows_that_it_changes(results, capsys):
    fake.put(fake.record("advprop", "published-space"), results)
    text = printed(capsys, "table", "1", "--protocol", "published-space", "--csv", "--results", str(results))
    keys = [line.split(",")[0] for line in text.splitlines()[2:]]
    assert "advprop" in keys and "traditional" not in keys
    assert "AdvProp" in printed(capsys, "table", "1", "--protocol", "published-space", "--results", str(results))


def test_a_record_that_lacks_a_measurement_is_named(tmp_path, capsys):
    fake.put(fake.record("advprop", "published", drop=["published:fgsm-0.1"]), tmp_path)
    assert main(["table", "1", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "advprop/seed0/record.json is not a record" in said and "it lacks ['published:fgsm-0.1']" in said


def test_claims_on_other_data_says_that_they_are_other_data(tmp_path, capsys):
    fake.put(fake.record("advprop", dataset="folder:cats", title="Cats"), tmp_path)
    assert main(["claims", "--results", str(tmp_path)]) == 0
    assert "not the paper's data" in capsys.readouterr().err


def test_status_shows_a_damaged_record_that_is_alone_in_its_data_set(tmp_path, capsys):
    folder = fake.put(fake.record("advprop"), tmp_path)
    (folder / "record.json").write_text("{")
    assert "1 damaged" in printed(capsys, "status", "--budget", "lite", "--results", str(tmp_path))


def test_an_unknown_protocol_of_a_table_is_refused(results, capsys):
    assert main(["table", "1", "--protocol", "publisht", "--results", str(results)]) == 2
    assert "did you mean 'published'" in capsys.readouterr().err


# measuring networks


def refused(capsys, *arguments) -> str:
    """What ``measure`` says to somebody who asked for what cannot be: one line."""
    assert main(["measure", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("study: ") and said.count("\n") == 1
    return said.strip()


MEASURE = ("masking", "autoattack", "corruptions", "branches", "columns", "overfitting", "transfer", "explorer")


@pytest.mark.parametrize("kind", MEASURE)
def test_what_was_not_run_is_not_measured_and_the_command_that_runs_it_is_said(kind, tmp_path, capsys):
    said = refused(capsys, kind, "als", "--protocol", "published", "--seed", "2", "--results", tmp_path / "my results")
    path = tmp_path / "my results" / "smoke" / "digits" / "published" / "als" / "seed2" / "record.json"
    begin = f"{path} is not there: run it first: {sys.executable} -m study "
    assert begin in said
    options = _parser().parse_args(shlex.split(said.partition(begin)[2]))
    assert (options.command, options.key, options.protocol, options.seed) == (runs, "als", "published", 2)
    assert (options.budget, options.dataset, options.results) == ("smoke", "digits", tmp_path / "my results")


@pytest.mark.parametrize("kind", [kind for kind in MEASURE if kind != "overfitting"])
@pytest.mark.parametrize(
    ("weights", "absent"),
    [
        ([], "models/als.safetensors"),
        (["--weights", "folder"], "folder/als.safetensors"),
        (["--weights", "not there"], "not there/traditional.safetensors"),
    ],
)
def test_without_its_weights_nothing_is_measured_and_their_place_is_said(
    kind, weights, absent, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # outside of any project
    monkeypatch.setenv("ADVLIB_WORK", "work")
    for key in ("traditional", "als"):
        fake.put(fake.record(key, budget="smoke"), tmp_path / "results")
    for folder in ("models", "folder"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "traditional.safetensors").write_text("nobody reads them")
    place = fake.record(Path(absent).stem, budget="smoke").where
    remedy = f"name the weights of {place} with --weights; a run leaves its own at work/{place}/model.safetensors"
    said = refused(capsys, kind, "traditional", "als", *weights, "--results", "results")
    assert f"{absent} is not there: {remedy}" in said


def test_the_weights_of_another_run_are_named_before_what_is_on_file_is_blamed(capsys):
    """The file is of the right weights, and must not be thrown away."""
    place = ["--budget", "lite", "--dataset", "cifar10-jpeg", "--results", str(ROOT / "results")]
    weights = ROOT / "models" / "sat.safetensors"
    assert main(["measure", "autoattack", "advprop", *place, "--weights", str(weights)]) == 2
    assert f"{weights} has the weights of lite/cifar10-jpeg/corrected/sat/seed0: name" in capsys.readouterr().err


def test_one_file_of_weights_is_of_one_row(tmp_path, capsys):
    weights = tmp_path / "als.safetensors"
    weights.write_text("weights")
    said = refused(capsys, "masking", "als", "sat", "--weights", weights, "--results", tmp_path)
    assert f"--weights {weights} is one file, and 2 rows are asked for: name one row" in said


def test_rows_without_advprop_have_no_branches_and_none_is_measured_before_they_are_named(tmp_path, capsys):
    for key in ("advprop", "als", "sat"):
        fake.put(fake.record(key, budget="smoke"), tmp_path / "results")
        save_file({"standardise.mean": torch.zeros(1, 3, 1, 1)}, tmp_path / f"{key}.safetensors")
    before = sorted(tmp_path.rglob("*"))
    said = refused(
        capsys, "branches", "advprop", "als", "sat", "--weights", tmp_path, "--results", tmp_path / "results"
    )
    assert "trained without AdvProp, with one batch norm a layer: als, sat: leave them out" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_row_is_refused_with_the_nearest_name(tmp_path, capsys):
    assert "did you mean 'advprop'" in refused(capsys, "masking", "advprp", "--results", tmp_path)


@pytest.mark.parametrize("images", ["0", "-5", "201"])
def test_no_image_or_more_than_there_are_are_refused(images, tmp_path, capsys):
    record = fake.record("als", budget="smoke")
    fake.put(record, tmp_path)
    save_file({"standardise.mean": torch.zeros(1, 3, 1, 1)}, tmp_path / "als.safetensors")
    said = refused(capsys, "autoattack", "als", "--images", images, "--weights", tmp_path, "--results", tmp_path)
    assert f"{images} images are asked for, and {record.where} was tested on 200: ask for 1 to 200" in said


# remedies


STANDS_FOR = {  # what a message puts into a command that it prints, by the expression there
    "cls.KIND": Probe.KIND,
    "record.key": "advprop",
    "record.flags": fake.record().flags,
    "records[place].flags": fake.record().flags,
    "' '.join(LARGE_EPS)": "sat-large-eps",
    "flags": "--budget lite --dataset svhn",
    "key": "advprop",
    "absent[0]": "published-space",
    "selection.flags(group)": "--budget lite --dataset svhn",
    "budget": "lite",
    "dataset": "svhn",
    "name": "lite",
    "seeds": "0 1",
    "f' --nproc {processes}' if processes else ''": "--nproc 2",
}


def rendered(node: ast.AST) -> str:
    """The text of a string in the sources, with what stands there for its expressions; "" of all else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else STANDS_FOR.get(ast.unparse(part.value), "?")
            for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def printed_commands() -> set[str]:
    """Every command of the study that a string of the sources has in it; docstrings are nobody's remedy."""
    found = set()
    for path in (path for folder in ("study", "advlib", "tools") for path in (ROOT / folder).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        inner |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if id(node) not in inner:
                found |= {text.strip() for text in re.findall(r"python -m study ([^`<;\n]+)", rendered(node))}
    return found


@pytest.mark.parametrize("command", sorted(printed_commands()))
def test_every_command_that_a_message_prints_can_be_typed_and_names_what_there_is(command):
    try:
        options = _parser().parse_args(shlex.split(command))
    except SystemExit as asked_for_help:
        assert asked_for_help.code == 0, command
        return
    named = vars(options)
    for key in [*(named.get("keys") or []), *([named["key"]] if "key" in named else [])]:
        grid.runs(named["budget"], [0], keys=[key], protocols=[named["protocol"]])
    if named.get("dataset"):
        data.check_name(named["dataset"])
    if "kind" in named:  # a measurement is of a run, and finds none but digits' where it is told nothing
        assert "--budget" in command and "--dataset" in command


def test_transfer_of_rows_that_nobody_probed_names_the_command_that_probes_the_first(tmp_path, capsys):
    said = refused(capsys, "transfer", "--budget", "lite", "--dataset", "cifar10-jpeg", "--results", tmp_path)
    options = _parser().parse_args(shlex.split(said.partition("first python -m study ")[2]))
    asked = (options.kind, options.keys, options.budget, options.dataset)
    assert asked == ("masking", ["traditional"], "lite", "cifar10-jpeg")


# the screen, and its keys


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["claims", "verdicts", "table 1", "claims --json"])
def test_a_screen_that_cannot_show_every_character_ends_no_command(results, command, encoding, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    assert main([*command.split(), "--results", str(results)]) == 0
    screen.flush()
    said = screen.buffer.getvalue().decode(encoding)
    assert json.loads(said) if "--json" in command else "AdvProp" in said


def test_ctrl_c_ends_a_command_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid, "state", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["status", "--results", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "study: ended by Ctrl-C; the same command goes on from what is saved\n"


# numbers that are none


@pytest.mark.parametrize(
    "asked",
    [
        "status --needs -1",
        "status --watch 0",
        "status --seeds 0 -1",
        "run als --seed 100000000000000000000000",
        "measure masking als --seed -1",
        "campaign --out x --minutes nan",
        "campaign --out x --minutes 5 --jobs 0",
        "campaign --out x --minutes 5 --gate-seconds inf",
    ],
)
def test_a_number_that_no_command_can_take_is_refused_with_its_range(asked, capsys):
    with pytest.raises(SystemExit) as ended:
        main(asked.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"'{asked.split()[-1]}' is not a number from" in said


@pytest.mark.parametrize("asked", ["--set seed=5", "--set dataset=digits"])
def test_what_names_a_run_is_no_field_to_set(asked, tmp_path, capsys):
    assert main(["run", "als", *asked.split(), "--results", str(tmp_path)]) == 2
    assert f"study: {asked}: write --" in capsys.readouterr().err


def test_a_seed_asked_for_twice_is_one_run(tmp_path, capsys):
    text = printed(capsys, "status", "--seeds", "0", "0", "--keys", "als", "--results", str(tmp_path))
    assert "2 missing of 2" in text


@pytest.mark.parametrize("command", ["status", "claims", "measure masking als"])
def test_a_file_in_the_place_of_the_results_is_named(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*command.split(), "--results", str(tmp_path / "file")]) == 2
    assert f"{tmp_path / 'file'} is no folder: a file stands where a folder belongs" in capsys.readouterr().err
