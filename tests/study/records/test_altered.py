"""A record that somebody or something has altered: every reader refuses it with its name, or none does.

The alterations are drawn with a fixed seed. ``ADVLIB_ALTERATIONS=1000`` tries so many; the suite tries a hundred.
"""

import copy
import json
import os

import fake_records as fake
import numpy as np
import pytest

from study import grid, records
from study.evidence import selection
from study.findings.claims import judge, report
from study.grid import execute
from study.records import passport

COUNT = int(os.environ.get("ADVLIB_ALTERATIONS", "100"))
RUN = grid.Run("sat", "corrected", "lite", "cifar10-jpeg", 0)
OTHER = fake.record("als-advprop", "published", seed=1)
DEEP = "deep"  # stands for a value that is nested ten thousand times
JUNK = [
    *(None, True, False, -1, 0, 1, 2, 3.5, -0.5, 10**30, 1e308, float("nan"), float("inf"), DEEP),
    *("", "x", "a/b", "..", "1e999", "\ud800", "\x00", "text " * 50, "2026-01-01", "linf", "corrected", "0"),
    *([], [0], [[]], ["x", "x"], {}, {"": 0}, {"name": "x"}),
]


def places(value, path=()):
    """The path of everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        yield (*path, name)
        yield from places(item, (*path, name))


def _at(value, path):
    for name in path:
        value = value[name]
    return value


def altered(text: str, rng: np.random.Generator) -> bytes:
    """A record's text after one alteration, of its values or of its bytes."""
    kind = rng.choice(["junk", "junk", "drop", "add", "again", "of another", "byte", "cut", "twice"])
    content = text.encode()
    where = int(rng.integers(len(content)))
    if kind == "byte":
        return content[:where] + bytes([rng.integers(256)]) + content[where + 1 :]
    if kind == "cut":
        return content[:where]
    raw = json.loads(text)
    every = list(places(raw))
    head = rng.choice(sorted(raw))  # else it would be a measurement most of the time
    of_one_head = [path for path in every if path[0] == head]
    *path, last = of_one_head[rng.integers(len(of_one_head))]
    holder, junk = _at(raw, path), copy.deepcopy(JUNK[rng.integers(len(JUNK))])
    if kind == "drop":
        del holder[last]
    elif kind == "add":
        holder.insert(last, junk) if isinstance(holder, list) else holder.update({"more": junk})
    elif kind == "again" and isinstance(holder, list):
        holder.append(holder[last])
    elif kind == "of another":
        other = json.loads(records.to_json(OTHER))
        try:
            holder[last] = _at(other, [*path, last])
        except (KeyError, IndexError):
            holder[last] = junk
    elif kind == "twice":
        name, value = json.dumps(path[0] if path else last), json.dumps(_at(raw, [path[0] if path else last]))
        return text.replace("{", f"{{{name}: {value},", 1).encode()
    else:
        holder[last] = junk
    return json.dumps(raw).replace(f'"{DEEP}"', 10_000 * "[" + 10_000 * "]").encode()


def said(what, *arguments):
    """What a reader makes of a record, or the words in which it refuses it; any other error is a fault."""
    try:
        return what(*arguments), None
    except ValueError as error:
        return None, str(error)


def use(record) -> None:
    """What is done with a record that counts: its numbers, its page, what a grid says of it."""
    assert all(0 <= m.accuracy <= 1 and len(m.mask) == m.n for m in record.measured)
    said = [{m.name: (m.column, m.attack, m.n) for m in one.measurements} for one in (record, fake.record(RUN.key))]
    assert said[0] == said[1], "a mask may be another's, but never of another attack or of other images"
    passport.markdown(record)
    states = [grid.State(RUN, "done", record=record)]
    grid.hours([*states, grid.State(RUN, "missing")])
    grid.versions_of([*states, grid.State(RUN, "missing")])
    records.digest(record)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(execute, "_checksum", lambda dataset: None)
    return fake.put(fake.record(RUN.key), tmp_path / "results") / "record.json"


def test_what_status_calls_damaged_is_what_claims_refuses_by_its_name_and_all_else_can_be_used(place, tmp_path):
    text, root = place.read_text(), tmp_path / "results"
    seen, faults = {"damaged": 0, "stale": 0, "done": 0}, []
    for k in range(COUNT):
        content = altered(text, np.random.default_rng(k))
        place.write_bytes(content)
        try:
            state, (groups, refused) = grid.state(RUN, root), said(selection.groups, root)
            assert (state.state == "damaged") == (refused is not None), (state, refused)
            assert refused is None or (refused == state.why and str(place) in refused), refused
            counts = [record for group in groups or [] for record in group]
            assert (state.state == "done") == bool(counts), (state.state, state.why)
            assert grid.strays(root, "lite", []) == ([refused] if refused else [])
            seen[state.state] += 1
            for record in counts:
                use(record)
                report.text(judge.evidence(root).rulings)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault of this alteration
            faults.append(f"{k}: {type(error).__name__}: {str(error)[:300]}")
    print(seen)
    assert not faults, f"{len(faults)} of {COUNT}\n" + "\n".join(faults[:40])
    assert seen["damaged"] and seen["done"], seen
