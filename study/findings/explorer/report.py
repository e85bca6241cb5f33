"""The explorer page: what its data file holds, whether that still belongs to the records, what the page gets. No torch.

``explorer.measure`` writes the file, ``book/explorer.md`` shows it. The file holds pictures and class
probabilities alone; every accuracy on the page comes from the records, when the book is built.

The letters of its arrays: E sizes of attack, N images, H, W and C as everywhere, K classes. A perturbation is what was
added to the uint8 image, in pixel levels; a probability is a whole number of ten-thousandths.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from markupsafe import Markup

from study import records
from study.evidence.comparisons import HEADINGS, STRONG, survivors
from study.evidence.estimates import wilson
from study.evidence.selection import RESULT_BUDGETS, why_stale
from study.plan import catalogue
from study.presentation.markup import NO_NUMBER, element, group_title, span, table, together
from study.records import Record, packing

SCHEMA = 1
NAME = "explorer.json"  # beside the protocols' folders: results/budget/dataset/explorer.json
ATTACKS = {"noise": "Noise", "fgsm": "FGSM", "pgd-10": "PGD-10"}  # in the data -> on the page, the weakest first
WHOLE = 10_000  # a probability of 1
KEYS = ("traditional", "adversarial", "advprop", "als", "sat", "als-sat-advprop")  # more would make the page heavy


def find(results: Path) -> Path | None:
    """The data file of the highest budget that has one; None if there is none."""
    places = [path for budget in RESULT_BUDGETS for path in sorted(results.glob(f"{budget}/*/{NAME}"))]
    return places[0] if places else None


def read(path: Path, results: Path, models: Path) -> tuple[dict, dict[str, Record]]:
    """The data file and its records by key, once they are found to belong together.

    Raises ValueError, naming every disagreement and the remedy, where the file has another schema, or a record, its
    notebook or a model's file is missing, stale, or not the one that the data were made from.
    """
    budget, dataset = path.parts[-3:-1]
    remedy = f"make them again: python -m study measure explorer --budget {budget} --dataset {dataset}"
    with packing.reading(path, remedy) as data:
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')}, this study reads {SCHEMA}")
        _unpack_all(data)
    faults = [fault for row in data["rows"] for fault in _faults(row, data["data"]["checksum"], results, models)]
    if faults:
        raise ValueError(f"the explorer's data do not belong to what is here: {'; '.join(faults)}; {remedy}")
    return data, {row["key"]: records.read(results / row["record"] / "record.json") for row in data["rows"]}


def clean(data: dict) -> np.ndarray:
    """The images as they are, uint8 (N, H, W, C)."""
    return packing.unpack(
        data["images"]["pixels"], (len(data["images"]["labels"]), *data["images"]["size"], 3), np.uint8
    )


def _unpack_all(data: dict) -> None:
    """Raises ValueError or KeyError on arrays that are damaged or of other shapes than the file says."""
    shape = (len(data["eps"]), *clean(data).shape)
    packing.unpack(data["noise"], shape, np.int8)
    for seen in (seen for row in data["rows"] for seen in row["branches"].values()):
        for attack in ("fgsm", "pgd-10"):
            packing.unpack(seen[attack]["perturbation"], shape, np.int8)


def page(data: dict, found: dict[str, Record]) -> Markup:
    """What the page adds to its own markup, as HTML: the table of the curves, and the data for the script."""
    about = {
        key: {
            "label": catalogue.rows()[key].name,
            "run": f"../results/{record.where}/run.html",
            "curves": curves(record, data["eps"]),
        }
        for key, record in found.items()
    }
    title = next(iter(found.values())).data["title"]
    scripts = [
        element("script", as_json(content), type="application/json", id=f"explorer-json-{name}")
        for name, content in {"data": data, "rows": about, "attacks": ATTACKS}.items()
    ]
    return together([_curves_as_table(about, title), *scripts])


def as_json(content: dict) -> Markup:
    """As it may stand in a script, where "</script" and "<!--" count, and entities do not."""
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))


def curves(record: Record, eps: list[int]) -> dict[str, dict[str, list[dict]]]:
    """Branch -> attack -> points of the accuracy against eps, from clean upwards, in percent with 95 % intervals.

    Every point of a record is over the same images: the first ones, as many as the smallest of its measurements has.
    What was not measured has no point. Raises KeyError where the record lacks one of the measurements.
    """
    names = {"main": {attack: ["clean"] for attack in ATTACKS}}
    for attack in ("fgsm", "pgd-10"):
        names["main"][attack] += [f"{attack}-{size}/255" for size in eps]
    names["main"]["fgsm"] += ["fgsm-0.1"]
    names["main"]["noise"] += ["noise-8/255", "noise-0.1"]
    if record.config["norm"] != "shared":  # the sweeps are of the main branch alone
        of_the_code = {"fgsm": ["clean", "fgsm-0.1"], "pgd-10": ["clean", STRONG], "noise": ["clean"]}
        names["aux"] = {attack: [f"{name}:aux" for name in listed] for attack, listed in of_the_code.items()}
    listed = {f"corrected:{name}" for at in names.values() for columns in at.values() for name in columns}
    n = min(len(survivors(record, name)) for name in listed)
    return {
        branch: {attack: [_point(record, name, n) for name in columns] for attack, columns in at.items()}
        for branch, at in names.items()
    }


def agreement(row: dict, record: Record, data: dict) -> float:
    """Share, in [0, 1], of verdicts on clean and FGSM images that are the record's own, through the main branch.

    Not always 1: the weights of a published model are rounded. PGD and noise are left out, as the record stops at an
    image's first misclassified iterate, and drew other noise.
    """
    index, labels, main = data["images"]["index"], np.array(data["images"]["labels"]), row["branches"]["main"]
    ours = [main["clean"], *main["fgsm"]["probabilities"]]
    names = ["corrected:clean", *(f"corrected:fgsm-{eps}/255" for eps in data["eps"])]
    same = [
        (np.argmax(probabilities, axis=1) == labels) == record.measurement(name).mask[index]
        for name, probabilities in zip(names, ours, strict=True)
    ]
    return float(np.mean(same))


def _faults(row: dict, checksum: str, results: Path, models: Path) -> list[str]:
    found = []
    model = models / row["model"]
    if not model.is_file():
        found.append(f"the model file {row['model']} is missing")
    elif hashlib.sha256(model.read_bytes()).hexdigest() != row["model_sha256"]:
        found.append(f"the model file {row['model']} has changed")
    path = results / row["record"] / "record.json"
    if not path.is_file():
        return [*found, f"the record {row['record']} is missing"]
    if not path.with_name("run.ipynb").is_file():
        found.append(f"the record {row['record']} has lost its run.ipynb")
    record = records.read(path)
    if why := why_stale(record):
        found.append(f"the record {row['record']} is stale ({why})")
    if records.digest(record) != row["record_sha256"]:
        found.append(f"the record {row['record']} has changed")
    if record.data["checksum"] != checksum:
        found.append(f"the record {row['record']} is of other data")
    return found


def _point(record: Record, name: str, n: int) -> dict:
    measurement = record.measurement(f"corrected:{name}")
    correct = int(survivors(record, measurement.name)[:n].sum())
    low, high = wilson(correct, n)
    column = measurement.column
    return {
        "eps": 0 if column == "clean" else round(measurement.attack["eps"] * 255, 3),
        "accuracy": round(100 * correct / n, 2),
        "low": round(100 * low, 2),
        "high": round(100 * high, 2),
        "n": n,
        "other": HEADINGS[STRONG] if column == STRONG else None,  # not the attack of the pictures
    }


def _curves_as_table(about: dict, title: str) -> Markup:
    points = [p for row in about.values() for at in row["curves"].values() for listed in at.values() for p in listed]
    n = " or ".join(f"{count:,}" for count in sorted({point["n"] for point in points}))
    sizes = sorted({point["eps"] for point in points})
    heads = ["Attack", *("clean" if size == 0 else f"{size:g}/255" for size in sizes)]
    body = []
    for row in about.values():
        link = span("quiet", element("a", "run", href=row["run"]))
        for branch, at in row["curves"].items():
            name = row["label"] + (", auxiliary batch norm" if branch == "aux" else "")
            lines = [_line(ATTACKS[attack], listed, sizes) for attack, listed in at.items() if len(listed) > 1]
            body.append(element("tbody", group_title(together([name, link], " "), len(heads)), *lines))
    caption = (
        f"Accuracy in percent on the first {n} test images of {title}, with Wilson 95 % intervals, from "
        f"the records. A dash: not measured. {HEADINGS[STRONG]}: a stronger attack than the column's."
    )
    return table(heads, body, caption)


def _line(attack: str, points: list[dict], sizes: list[float]) -> Markup:
    by_size = {point["eps"]: point for point in points}
    cells = [element("td", _cell(by_size.get(size))) for size in sizes]
    return element("tr", element("td", attack, class_="protocol"), *cells)


def _cell(point: dict | None) -> Markup:
    if point is None:
        return NO_NUMBER
    other = span("interval", point["other"]) if point["other"] else ""
    return together([f"{point['accuracy']:.1f}", span("interval", f"{point['low']:.1f} to {point['high']:.1f}"), other])
