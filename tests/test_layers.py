"""Claims about what depends on what: imports go down only, and whatever reads records needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import advlib

PACKAGE = Path(advlib.__file__).parent

# From the ground up; a module may import modules of the lines above its own, and none beside or below it.
LAYERS = [
    [
        "config",
        "folders",
        "progress",
        "statistics",
        "kernel",
        "interrupt",
        "activations",
        "norm",
        "products",
        "precision",
        "losses",
        "attacks",
        "augment",
        "data",
        "figures",
    ],
    [
        "catalogue",
        "records",
        "arithmetic",
        "gpus",
        "torchrun",
        "parallel",
        "resnet",
        "branches",
        "diagrams",
        "lessons",
        "toy",
    ],
    ["folded", "weights", "unfinished", "evidence", "ensemble", "markup", "passport", "show", "versions"],
    [
        "train",
        "execute",
        "claims",
        "contrasts",
        "dissection",
        "masking",
        "combinations",
        "overfitting",
        "mixtures",
        "tables",
        "explorer",
        "speed",
        "rounding",
    ],
    [
        "evaluate",
        "grid",
        "ledger",
        "captions",
        "quirks",
        "remarks",
        "verdicts",
        "worst",
        "corruptions",
        "branchwise",
        "sweeps",
        "leaderboard",
    ],
    ["run", "probe"],
    [
        "plots",
        "portrait",
        "gallery",
        "campaign",
        "gate",
        "autoattack",
        "corrupt",
        "worker",
        "recombine",
        "retrain",
        "transfer",
    ],
    ["watch"],
    ["spoilt"],
    ["__main__"],
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
WITHOUT_TORCH = [
    "config",
    "folders",
    "progress",
    "statistics",
    "catalogue",
    "records",
    "evidence",
    "markup",
    "passport",
    "show",
    "versions",
    "claims",
    "dissection",
    "ensemble",
    "masking",
    "combinations",
    "branchwise",
    "leaderboard",
    "mixtures",
    "tables",
    "remarks",
    "ledger",
    "verdicts",
    "worst",
    "corruptions",
    "spoilt",
    "captions",
    "figures",
    "plots",
    "gallery",
    "explorer",
    "contrasts",
    "quirks",
    "diagrams",
    "execute",
    "interrupt",
    "arithmetic",
    "gpus",
    "torchrun",
    "grid",
    "campaign",
    "speed",
    "rounding",
    "sweeps",
    "overfitting",
    "__main__",
]


def modules() -> dict[str, list[Path]]:
    """Module of advlib -> its files; a package counts as one module."""
    found = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    return found | {folder.parent.name: sorted(folder.parent.glob("*.py")) for folder in PACKAGE.glob("*/__init__.py")}


def imported(path: Path, package: str) -> set[str]:
    """The modules of advlib that a file imports, anywhere in it, in whatever spelling."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    inside = [name.split(".") for name in names if name.split(".")[0] == "advlib"]
    return {parts[1] for parts in inside if len(parts) > 1 and parts[1] in modules()}


def dependencies(module: str) -> set[str]:
    files = modules()[module]
    package = f"advlib.{module}" if len(files) > 1 else "advlib"
    return set().union(*(imported(path, package) for path in files)) - {module}


def test_every_module_has_its_place():
    assert modules().keys() == LEVEL.keys(), "say in LAYERS where a new module stands"


@pytest.mark.parametrize("module", sorted(LEVEL))
def test_imports_go_down_only(module):
    for other in dependencies(module):
        assert LEVEL[other] < LEVEL[module], f"advlib.{module} imports advlib.{other}, which stands no lower"


def test_the_imports_that_this_file_sees_are_those_there_are():
    """A blind spot in this file would let everything pass."""
    assert dependencies("evaluate") >= {"attacks", "records", "train"}
    assert dependencies("run") >= {
        "attacks",
        "augment",
        "config",
        "data",
        "evaluate",
        "losses",
        "records",
        "resnet",
        "train",
    }
    assert dependencies("data") == set()


def test_names_become_objects_in_run_alone():
    """Nothing below ``run`` and the notebook's helpers knows the experiment's choices as objects."""
    assert {module for module in LEVEL if "run" in dependencies(module)} <= {
        "portrait",
        "gate",
        "execute",
        "retrain",
        "watch",
        "worker",
        "__main__",
    }
    for module in ("train", "evaluate", "attacks", "losses", "augment", "norm", "activations", "resnet"):
        assert not dependencies(module) & {"catalogue", "data", "run"}, module
    assert not dependencies("train") & {"losses", "augment", "resnet", "evaluate"}  # handed over, not chosen


def loaded_by(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_advlib_imports_nothing_else():
    before, after = loaded_by(""), loaded_by("import advlib")
    assert after - before == {"advlib"}


def test_what_reads_and_draws_records_never_imports_torch():
    loaded = loaded_by("\n".join(f"import advlib.{module}" for module in WITHOUT_TORCH))
    assert {f"advlib.{module}" for module in WITHOUT_TORCH} <= loaded
    assert not {name.split(".")[0] for name in loaded} & {"torch", "torchvision", "safetensors"}


def test_checking_a_datasets_name_needs_no_torch():
    assert "torch" not in loaded_by("from advlib import data; data.check_name('cifar10')")
