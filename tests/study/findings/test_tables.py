"""Tables say what the records say, name what is missing, and refuse what cannot be shown."""

import dataclasses
import re

import fake_records as fake
import numpy as np
import pytest

from study.evidence import selection
from study.findings.claims import judge, report
from study.findings.dissection import report as dissection
from study.findings.numbers import mixtures, order, results, training
from study.findings.runs import report as runs
from study.plan import catalogue
from study.presentation import markup, sentences
from study.records import packing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def everything(folder):
    """Every row under both protocols and all steps between them, as (group, results folder)."""
    group = [fake.record(key, protocol) for key in catalogue.rows() for protocol in catalogue.PROTOCOLS]
    group += [
        fake.record(key, protocol)
        for key in catalogue.DISSECTED
        for protocol in catalogue.rows()[key].dissection()[1:-1]
    ]
    for record in group:
        fake.put(record, folder)
    return group, folder


def test_a_row_that_was_not_run_is_named_as_missing():
    group = [fake.record("advprop")]
    assert "SAT (corrected, `sat`)" in results.missing(group, 1)
    assert "AdvProp (corrected, `advprop`)" not in results.missing(group, 1)
    assert "`sat-large-eps`" in results.missing(group, 2) and "`als-adversarial`" in results.missing(group, None)


def test_a_run_that_lacks_a_measurement_fails_instead_of_leaving_a_gap(folder):
    record = fake.record(drop=["corrected:pgd-0.5"])
    fake.put(record, folder)
    with pytest.raises(KeyError, match="pgd-0.5"):
        results.paper_table([record])


def test_a_part_of_the_paper_without_a_run_is_refused_and_so_is_a_table_that_it_does_not_have(folder):
    with pytest.raises(ValueError, match="no row of Table 2"):
        results.paper_table([fake.record("advprop")], 2)
    with pytest.raises(ValueError, match="no table 3"):
        catalogue.part(3)


def test_the_results_table_has_each_number_of_paper_and_records(folder):
    group = [fake.record("advprop", protocol) for protocol in catalogue.PROTOCOLS]
    for record in group:
        fake.put(record, folder)
    html = results.paper_table(group)
    for value in catalogue.rows()["advprop"].published.values():
        assert f"<td>{value:.1f}</td>" in html
    for record in group:
        for column in catalogue.COLUMNS:
            assert f"<td>{100 * record.measurement(f'{record.protocol}:{column}').accuracy:.1f}<" in html
        assert f'href="../results/{record.where}/run.html"' in html
    assert "CIFAR-10, JPEG copy" in html and "budget lite" in html


def test_a_number_changes_with_the_mask_that_it_is_computed_from(folder):
    """The tables hold no number of their own: alter one image of one record, and the digits follow."""
    record = fake.record("traditional", **{"corrected:clean": 0.6})
    fake.put(record, folder)
    before = results.paper_table([record])
    mask = record.measurement("corrected:clean").mask
    mask[-20:] = True
    packed = packing.pack_mask(mask)
    altered = dataclasses.replace(
        record,
        measurements=tuple(
            dataclasses.replace(m, correct=packed) if m.name == "corrected:clean" else m for m in record.measurements
        ),
    )
    after = results.paper_table([altered])
    assert "<td>60.0<" in before and "<td>70.0<" in after and "<td>60.0<" not in after


def test_without_its_record_a_row_has_no_number_and_is_called_missing(folder):
    for key in ("traditional", "advprop"):
        fake.put(fake.record(key), folder)
    (folder / fake.record("advprop").where / "record.json").unlink()
    (group,) = selection.groups(folder)
    assert "AdvProp" not in results.paper_table(group)
    assert "AdvProp (corrected, `advprop`)" in results.missing(group, 1)


def test_every_table_recomputed_from_the_masks_has_the_same_digits(everything):
    """An independent reading: bits out of the JSON by hand, means by numpy, compared with the table for programs."""
    import base64
    import json
    import zlib

    group, folder = everything
    for part in (1, 2):
        for protocol in catalogue.PROTOCOLS:
            shown = results.frame(group, part, protocol)
            for key in catalogue.part(part):
                raw = json.loads((folder / f"lite/cifar10-jpeg/{protocol}/{key}/seed0/record.json").read_text())
                bits = {
                    m["name"]: np.unpackbits(
                        np.frombuffer(zlib.decompress(base64.b85decode(m["correct"])), np.uint8), count=m["n"]
                    )
                    for m in raw["measurements"]
                }
                for column, heading in catalogue.COLUMNS.items():
                    masks = [bits[name] for name in bits if re.fullmatch(f"{protocol}:{column}(:surrogate)?", name)]
                    assert shown.loc[key, (heading, "value")] == round(100 * np.min(masks, axis=0).mean(), 2)
                    assert shown.loc[key, (heading, "paper")] == catalogue.rows()[key].published[column]


def test_a_row_says_how_many_of_its_seeds_are_there(folder):
    group = [fake.record(seed=seed) for seed in (0, 1)]
    for record in group:
        fake.put(record, folder)
    assert "2 of 3 seeds" in results.paper_table(group)
    third = fake.record(seed=2)
    fake.put(third, folder)
    assert "of 3 seeds" not in results.paper_table([*group, third])


def test_every_line_of_every_table_has_a_cell_for_each_heading(everything):
    group, folder = everything
    for key in runs.SMOKE_ROWS:
        fake.put(fake.record(key, budget="smoke"), folder)
    rulings = judge.Evidence([group]).rulings
    pages = [
        *(results.paper_table(group, part) for part in (1, 2, None)),
        results.headline(group),
        results.columns(group),
        order.comparison(group),
        training.cost(group),
        runs.smoke(folder),
        runs.runs(group),
        *(dissection.effects(group, key) for key in catalogue.DISSECTED),
        *(mixtures.effects(group, protocol) for protocol in catalogue.PROTOCOLS),
        report.brief(rulings),
        *re.findall("<figure.*?</figure>", report.details(rulings), re.DOTALL),
    ]
    assert len(pages) > 30
    for html in pages:
        heads = len(re.findall('<th scope="col">', html))
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", html)[1:]
        assert lines
        for line in lines:
            assert len(re.findall(r"<t[hd]", line)) == heads or f'colspan="{heads}"' in line


def test_an_update_of_two_steps_counts_twice_and_one_on_clean_images_does_not():
    group = [fake.record(key, protocol) for key in ("traditional", "advprop") for protocol in catalogue.PROTOCOLS]
    lines = re.findall(r"<tr><th[^>]*>(.*?)</th>(.*?)</tr>", training.cost(group))[1:]
    found = {(name, *re.findall("<td>(.*?)</td>", cells)) for name, cells in lines}
    assert found == {
        ("Traditional", "published", "4 + 4", "100", "800"),
        ("Traditional", "corrected", "4 + 4", "100", "800"),
        ("AdvProp", "published", "4 + 4", "200", "800"),
        ("AdvProp", "corrected", "4 + 4", "100", "800"),
    }


def test_a_record_without_its_notebook_is_refused(folder):
    (fake.put(fake.record(), folder) / "run.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="no run.ipynb"):
        results.paper_table(selection.groups(folder)[0])


def test_a_folder_without_results_says_so(folder):
    fake.put(fake.record(budget="smoke"), folder)
    assert "There is no result yet" in sentences.status(folder) and "1 smoke run " in sentences.status(folder)


def test_stale_records_are_counted_and_the_command_that_says_why_is_named(folder):
    assert sentences.left_out(folder) == ""
    old = fake.record(seed=3)
    fake.put(dataclasses.replace(old, config=old.config | {"lr": 0.2}), folder)
    assert ": 1 corrected. `python -m study status --budget lite --seeds 3` says why" in sentences.left_out(folder)


def test_a_published_row_that_was_not_trained_in_float32_says_so_in_tables_and_in_the_dissection(folder):
    exact = fake.record("adversarial", "published")
    moved = fake.record("adversarial", "published-precision")
    corrected = fake.record("adversarial", "corrected")
    for record in (moved, corrected):
        record.provenance["precision"] = "bfloat16"
    for record in (exact, corrected):
        fake.put(record, folder)
    assert "trained in" not in results.paper_table([exact, corrected])
    assert "what the device does best instead of float32, here bfloat16" in dissection.effects(
        [exact, moved, corrected], "adversarial"
    )
    exact.provenance["precision"] = "bfloat16"
    assert results.paper_table([exact, corrected]).count("trained in bfloat16: ") == 1


def test_the_dissection_says_whether_its_intervals_know_how_much_trainings_differ():
    group = [fake.record("adversarial", protocol) for protocol in catalogue.PROTOCOLS]
    assert "With one training of each they do not include how much trainings differ." in dissection.effects(
        group, "adversarial"
    )
    group.append(fake.record("advprop", seed=0))
    group.append(fake.record("advprop", seed=1, **{"corrected:clean": 0.7}))
    assert "Between two trainings they include how much trainings differ." in dissection.effects(group, "adversarial")


def test_the_runs_are_counted_by_protocol_and_their_hours_added_up():
    found = [fake.record(protocol=p) for p in ("published", "corrected", "published-space")]
    assert runs.totals(found).startswith("**3 runs** (1 published, 1 corrected, 1 in between; seed 0) took 0.0 hours")


def test_the_machinery_table_names_a_row_that_did_not_run(folder):
    for key in runs.SMOKE_ROWS[:-1]:
        fake.put(fake.record(key, budget="smoke"), folder)
    with pytest.raises(FileNotFoundError, match="als-sat-advprop.*make smoke"):
        runs.smoke(folder)


def test_a_description_counts_images_and_seeds():
    group = [fake.record(seed=0), fake.record(seed=1), fake.record("sat")]
    text = sentences.describe(group)
    assert (
        "1,000 training images, 200 test images, 1 to 2 trainings of each method" in text
        and "CIFAR-10, JPEG copy" in text
    )


def test_where_only_other_data_were_run_a_page_says_so_and_does_not_deny_the_runs(tmp_path):
    fake.put(fake.record("advprop", dataset="folder:cats", title="Cats"), tmp_path)
    said = sentences.status(tmp_path)
    assert "no result on the paper's data" in said and "lite on Cats (1 run)" in said


def test_groups_that_the_paper_is_not_judged_by_are_named():
    best, other = [fake.record()], [fake.record(budget="full")]
    assert results.also_here([best], [best]) == ""
    assert "full on CIFAR-10, JPEG copy (1 run)" in results.also_here([best, other], [best])


def test_every_page_of_results_says_of_which_size_and_data_and_a_small_budget_carries_a_warning():
    small = sentences.caution([fake.record()])
    assert "A small setting" in small and "have width 64 and are trained" in small
    wide = dataclasses.replace(fake.record(), config=fake.record().config | {"width": 64})
    short = sentences.caution([wide])
    assert "A short training" in short and "have width" not in short and "warning" in short
    full = sentences.caution([fake.record(budget="full")])
    assert "warning" not in full and "CIFAR-10, JPEG copy, budget full" in full and "1,000 training images" in full


def test_rows_of_one_label_are_told_apart():
    titles = [sentences.title(row) for row in catalogue.rows().values()]
    assert len(set(titles)) == len(titles)


def test_the_order_of_the_rows_is_compared_with_the_papers_column_by_column():
    keys = ["adversarial", "advprop", "als", "als-sat", "als-sat-advprop"]  # told apart by 200 images in every column
    paper = {key: catalogue.rows()[key].published for key in keys}
    alike = {key: {f"published:{column}": value / 100 for column, value in paper[key].items()} for key in keys}
    group = [fake.record(key, "published", **alike[key]) for key in keys]
    lines = order.comparison(group).split("<tr>")[2:]
    assert len(lines) == len(catalogue.COLUMNS)
    assert all("<td>+1.00</td>" in line for line in lines)
    reverse = [fake.record(key, "published", **alike[other]) for key, other in zip(keys, keys[::-1], strict=True)]
    assert "<td>+1.00</td>" not in order.comparison(reverse)
    assert order.comparison(group[:4]) == ""
    assert "less in" not in order.agreement(group) and "less in Test" in order.agreement(reverse)
    assert order.agreement(group[:4]) == ""


def test_the_order_of_two_attacks_within_a_method_is_compared_with_the_papers():
    keys = ["traditional", "adversarial", "advprop", "als", "sat"]  # PGD 0.1 is below FGSM 0.1 in three of them
    rates = {"published:fgsm-0.1": 0.3, "published:pgd-0.1": 0.4}
    group = [fake.record(key, "published", **rates) for key in keys]
    said = order.agreement(group)
    assert "PGD 0.1 leaves more than FGSM 0.1 in 5 of 5 here and in 2 in the paper" in said
    assert "the order of the two is the paper's in 2." in said
    group[0] = fake.record("traditional", "published", **{"published:fgsm-0.1": 0.3, "published:pgd-0.1": 0.2})
    assert "in 4 of 5 here and in 2 in the paper: the order of the two is the paper's in 3." in order.agreement(group)


def test_a_row_that_gains_from_a_larger_attack_is_flagged_unless_it_only_guesses():
    def flags(large: float, small: float) -> str:
        rates = {"corrected:pgd-0.1": small, "corrected:pgd-0.5": large, "corrected:fgsm-0.5": 0.0}
        return results.red_flags([fake.record("adversarial-large-eps", **rates)])

    assert "Adversarial (Table 2), corrected: 45.0 % under PGD 0.5 and 0.0 % under PGD 0.1" in flags(0.45, 0.0)
    assert flags(0.2, 0.45) == "", "an honest network"
    assert flags(0.1, 0.0) == "", "chance"


def test_a_difference_is_bold_only_where_its_interval_excludes_zero():
    from study.evidence.estimates import Estimate

    assert markup.points(Estimate(0.02, 0.01, 0.03, 100, 1)).startswith("<strong>+2.0</strong>")
    assert markup.points(Estimate(-0.02, -0.03, -0.01, 100, 1)).startswith("<strong>-2.0</strong>")
    assert markup.points(Estimate(0.02, -0.01, 0.05, 100, 1)).startswith("+2.0<")


def test_what_a_gpus_budget_costs_is_told_for_each_and_a_short_one_costs_its_share_of_the_epochs():
    lines = re.findall(r"<tr>.*?</tr>", runs.full_cost([fake.record("adversarial")]), re.DOTALL)
    operations = {
        line.split(":")[0].rsplit(">", 1)[-1]: float(re.findall(r"<td[^>]*>([\d.]+)</td>", line)[0])
        for line in lines
        if "Adversarial," in line
    }
    assert set(operations) == set(catalogue.GPU_BUDGETS)
    assert operations["brief"] == pytest.approx(8 / 100 * operations["full"], abs=0.1)
