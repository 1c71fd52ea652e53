"""The layers: who may import whom, and which third-party package stays behind which door.

Imports are read from the source, those inside functions included.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "orchestrator"

# Lowest first. A module imports from its own rank or from a lower one.
LAYERS = [
    ["types"],
    ["errors"],
    ["files", "seeds", "importing", "masking", "progress", "stores", "utilisation", "start", "process"],
    ["config"],
    ["tracking", "tasks"],
    ["training", "serving"],
    ["trial", "ranks", "batch_probe", "study", "preflight"],
    ["runners"],
    ["stages"],
    ["ensemble"],
    ["report"],
    ["app"],
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Within a rank, these know nothing of each other.
STRANGERS = [
    ("tracking", "tasks"),
    ("training", "serving"),
    ("trial", "study"),
    ("preflight", "study"),
    ("preflight", "trial"),
]

# Package to the modules (or folders) that may import it.
DOORS = {
    "hydra": ["config.entry"],
    "omegaconf": ["config.entry", "config.compose"],
    "ray": [
        "runners.cluster",
        "runners.demand",
        "runners.kills",
        "runners.ranks",
        "runners.ray",
        "runners.tune",
    ],
    "mlflow": [
        "serving.mlflow_model",
        "tracking.mlflow",
        "tracking.mlflow_client",
        "tracking.mlflow_entities",
        "tracking.mlflow_models",
    ],
    "optuna": ["study"],
    "sqlalchemy": ["study.server"],
    "scipy": [
        "ensemble.calibrate",
        "study.acquisition",
        "study.candidates",
        "study.feasibility",
        "study.memory",
        "study.samplers",
        "study.surrogate",
        "stages.race",
        "tasks",
        "preflight.data_twins",
        "preflight.data_moments",
    ],
    "sklearn": ["tasks", "preflight.classical", "preflight.baselines"],
    "matplotlib": [
        "preflight.gallery",
        "preflight.gallery_draw",
        "preflight.gallery_network",
        "report.drawing",
        "report.maps",
        "report.parallel",
        "report.stage_charts",
        "report.sweep_charts",
        "report.winner_charts",
    ],
    "pandas": ["tracking.mlflow_models"],
    "pyarrow": ["report.logbook", "serving.files", "stores"],
    "torch": ["tasks", "serving", "training", "trial", "batch_probe", "preflight", "ensemble"],
    "pydantic": ["config"],
}


def modules() -> dict[str, ast.Module]:
    """Dotted name below the package to the parsed source; the package itself is the empty name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(tree: ast.AST) -> set[str]:
    """Every dotted name that ``tree`` imports, anywhere in it; with ``from a import b``, both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not read here"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def own_imports(name: str) -> set[str]:
    """The modules of the package that module ``name`` imports."""
    prefix = "orchestrator."
    below = {item.removeprefix(prefix) for item in imported(MODULES[name]) if item.startswith(prefix)}
    return {item for item in below if item in MODULES and "." in f"{item}." and not is_folder(item)} - {name}


def is_folder(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).is_dir()


def layer(name: str) -> str:
    return name.partition(".")[0]


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def test_the_source_is_read_in_full() -> None:
    assert len(MODULES) > 40
    assert "errors" in own_imports("files")
    # An import inside a function counts.
    assert "runners.ray" in own_imports("app.wiring")


def test_every_module_has_a_layer() -> None:
    assert {layer(name) for name in MODULES if name} == set(RANKS)


def test_there_is_no_import_cycle() -> None:
    graph = {name: own_imports(name) for name in MODULES if name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_a_module_imports_only_from_its_own_layer_or_lower(name: str) -> None:
    higher = {other for other in own_imports(name) if RANKS[layer(other)] > RANKS[layer(name)]}
    assert not higher


def test_single_modules_of_one_rank_do_not_import_each_other() -> None:
    for one, other in STRANGERS:
        assert RANKS[one] == RANKS[other]
        for name in MODULES:
            for mine, theirs in ((one, other), (other, one)):
                if layer(name) == mine:
                    assert not {item for item in own_imports(name) if layer(item) == theirs}


@pytest.mark.parametrize("package", sorted(DOORS))
def test_a_third_party_package_stays_behind_its_door(package: str) -> None:
    users = {name for name, tree in MODULES.items() if any(within(item, package) for item in imported(tree))}
    assert users, f"nobody imports {package}: the row is out of date"
    strangers = {name for name in users if not any(within(name, place) for place in DOORS[package])}
    assert not strangers
    unused = {place for place in DOORS[package] if not any(within(name, place) for name in users)}
    assert not unused


def test_the_study_is_known_below_the_stages_by_nobody() -> None:
    for name in MODULES:
        if layer(name) in ("tasks", "training", "trial", "runners", "tracking"):
            assert not {item for item in own_imports(name) if layer(item) in ("study", "stages", "ensemble")}, name
