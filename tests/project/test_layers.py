"""Claims about what depends on what: the method knows torch alone, rooms import downwards, readers need no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import fake_records as fake
import pytest

import advlib
import study

METHOD = Path(advlib.__file__).parent
STUDY = Path(study.__file__).parent

# From the ground up: a room may import the rooms before it. The way of the data runs the same way.
ROOMS = [
    "machine",  # disks, signals, processes
    "data",  # images
    "plan",  # what is run: configs, the catalogue
    "records",  # what a run leaves
    "experiment",  # a config becomes a record
    "grid",  # many of them
    "evidence",  # which records count, and how sure their numbers are
    "presentation",  # how numbers look
    "findings",  # a room for each question that the book answers
    "drawings",  # figures that need no record
    "__main__",  # the commands
]
# Needs torch or may load it; all else reads and draws records, and starts in a moment.
WITH_TORCH = {
    "data.pixels",
    "experiment",
    "grid.gate",
    "drawings.lessons",
    "drawings.portrait",
    "drawings.toy",
    "drawings.two_norms",
    "findings.autoattack.measure",
    "findings.branches.measure",
    "findings.columns.measure",
    "findings.corruptions.measure",
    "findings.explorer.measure",
    "findings.masking.measure",
    "findings.masking.transfer",
    "findings.overfitting.measure",
}


def modules() -> dict[str, Path]:
    """Module of the study, by its name below ``study`` -> its file."""
    found = {}
    for path in sorted(STUDY.rglob("*.py")):
        parts = path.relative_to(STUDY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def is_module(name: str) -> bool:
    """Whether "advlib.attacks", say, is a module of this project, and not a name inside one."""
    place = STUDY.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def imported(path: Path) -> set[str]:
    """What a file imports of this project, anywhere in it, in whatever spelling: "advlib.attacks", "study.records"."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = path.relative_to(STUDY.parent).parts[: -node.level] if node.level else ()
            base = ".".join([*home, *([node.module] if node.module else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            inside = {name for name in whole if is_module(name)}
            names |= inside | ({base} if whole - inside else set())  # of a package its module, where that is meant
    return {name for name in names if name.split(".")[0] in ("advlib", "study")}


def dependencies(module: str) -> set[str]:
    """The modules of the study that a module imports, itself and the packages around what it imports left out."""
    names = {name.removeprefix("study.") for name in imported(modules()[module]) if name.startswith("study.")}
    return (names & modules().keys()) - {module}


def room(module: str) -> str:
    return module.split(".")[0]


def test_the_method_is_seven_files_that_know_torch_and_each_other():
    files = {path.stem for path in METHOD.glob("*.py")} - {"__main__"}  # a signpost to the study's commands
    assert files == {"__init__", "activations", "attacks", "losses", "norm", "resnet", "train"}
    for path in METHOD.glob("*.py"):
        assert all(name.split(".")[0] == "advlib" for name in imported(path)), path.name
        roots = {
            (node.names[0].name if isinstance(node, ast.Import) else node.module).split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert roots - set(sys.stdlib_module_names) <= {"torch", "advlib"}, path.name


def test_every_room_has_its_place():
    assert {room(module) for module in modules()} == set(ROOMS), "say in ROOMS where a new room stands"


@pytest.mark.parametrize("module", sorted(modules()))
def test_rooms_import_downwards(module):
    for other in dependencies(module):
        assert ROOMS.index(room(other)) <= ROOMS.index(room(module)), f"study.{module} imports study.{other}"


def test_no_two_modules_import_each_other_by_any_way_round():
    graph = {module: dependencies(module) for module in modules()}
    while ends := [module for module, below in graph.items() if not below & graph.keys()]:
        for module in ends:
            del graph[module]
    assert not graph, f"a circle among {sorted(graph)}"


def test_the_imports_that_this_file_sees_are_those_there_are():
    """A blind spot in this file would let everything pass."""
    assert dependencies("experiment.evaluate") >= {"data.pixels", "records", "experiment.unfinished"}
    assert dependencies("experiment.build") >= {"plan.config", "data", "experiment.fast.folded"}
    assert imported(STUDY / "experiment" / "build.py") >= {"advlib.losses", "advlib.train", "advlib.attacks"}
    assert dependencies("machine.folders") == set()


def test_names_become_objects_in_build_alone():
    """What computes is handed the experiment's choices as objects, and knows neither catalogue nor names."""
    for module in ("training", "evaluate", "augment", "precision", "fast.folded", "fast.products", "fast.parallel"):
        assert not dependencies(f"experiment.{module}") & {"plan.catalogue", "experiment.build", "experiment.run"}, (
            module
        )
    assert "advlib.losses" not in imported(STUDY / "experiment" / "training.py")  # handed over, not chosen


def loaded_by(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_method_loads_nothing_of_the_study_and_none_of_its_libraries():
    loaded = {name.split(".")[0] for name in loaded_by("from advlib import pgd, resnet18")}
    assert "torch" in loaded
    assert not loaded & {
        "study",
        "torchvision",
        "pandas",
        "scipy",
        "matplotlib",
        "sklearn",
        "statsmodels",
        "safetensors",
    }


def test_what_reads_and_draws_records_never_imports_torch():
    chosen = [m for m in modules() if not any(m == name or m.startswith(f"{name}.") for name in WITH_TORCH)]
    loaded = loaded_by("\n".join(f"import study.{module}" for module in chosen))
    assert {f"study.{module}" for module in chosen} <= loaded and len(chosen) > 50
    assert not {name.split(".")[0] for name in loaded} & {"torch", "torchvision", "safetensors"}


def test_checking_a_datasets_name_needs_no_torch():
    assert "torch" not in loaded_by("from study import data; data.check_name('cifar10')")


@pytest.mark.parametrize(
    "command, spared",
    [
        ("list", {"torch", "matplotlib", "pandas", "scipy.stats"}),
        ("status --keys als", {"torch", "matplotlib"}),
        ("claims", {"torch"}),
        ("verdicts", {"torch"}),
        ("table 1", {"torch"}),
    ],
)
def test_a_command_that_only_reads_waits_for_no_library_that_it_does_not_need(command, spared, tmp_path):
    for budget in ("smoke", "lite"):  # the checksum of the digits is asked for, and they are always here
        fake.put(fake.record("als", budget=budget), tmp_path)
    arguments = command.split() + ([] if command == "list" else ["--results", str(tmp_path)])
    code = f"""
import contextlib, io
from study.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main({arguments}) == 0"""
    assert not loaded_by(code) & spared
