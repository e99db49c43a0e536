"""Imports go one way, and what is public is documented."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "onnxprune"
README = ROOT / "README.md"
MODULES = sorted(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))


@cache
def imported(module: str) -> set[str]:
    """Names of all modules that a file imports, anywhere in it, but for type checkers only."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for name, body in ast.iter_fields(node):
            if name == "body" and isinstance(body, list):
                body[:] = [one for one in body if not _for_type_checkers(one)]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def uses(module: str, library: str) -> bool:
    return any(name == library or name.startswith(f"{library}.") for name in imported(module))


METHODS = ("finetune", "fisher", "gate", "method", "scp", "taylor", "tgl")
"""Those that train."""

WHERE = {
    "torch": (
        "to_torch/", "training/", "demo",
        *(f"methods/{name}" for name in METHODS),
    ),
    "accelerate": ("training/",),
    "safetensors": ("training/",),
    "tensorboardX": ("training/",),
    "torchvision": ("training/augmentation", "training/mixing"),
    "datasets": ("training/tables",),
    "pyarrow": ("training/tables",),
    "PIL": ("training/images",),
    "onnxruntime": ("session", "verify", "bench", "profiling", "peak", "machine", "training/"),
    "click": ("cli", "options", "display"),
    "rich": ("display",),
    "sklearn": ("demo",),
    "matplotlib": ("picture",),
}


@pytest.mark.parametrize("library", WHERE)
def test_a_library_is_imported_where_it_belongs(library: str):
    found = [module for module in MODULES if uses(module, library)]
    assert found
    assert [module for module in found if not module.startswith(WHERE[library])] == []


LAYERS = [
    ("errors", "methods.registry", "settle", "links", "labels", "advice", "scopes"),
    ("axes", "fold", "tidy", "quantized"),
    ("model", "shapes", "intake", "weights"),
    ("ops", "prepare"),
    ("reading",),
    ("groups",),
    ("cost", "gates", "norms", "wiring", "structure", "branches", "plan", "methods.magnitude", "methods.distances"),
    ("choose", "rewrite"),
    ("session",),
    ("compare",),
    ("verify",),
    ("proving", "latency"),
    ("training", "to_torch", "distilled", *(f"methods.{name}" for name in METHODS)),
    ("calibration",),
    ("recovery",),
    ("widths",),
    ("inspection",),
    ("decision",),
    ("slimming", "picture", "training.verb"),
    ("demo",),
    ("display",),
    ("cli",),
]
"""What a module of one layer may import lies in its own layer or one before it."""
DEPTH = {f"onnxprune.{name}": depth for depth, layer in enumerate(LAYERS) for name in layer}


def dotted(module: str) -> str:
    return "onnxprune." + module.replace("/", ".").removesuffix(".__init__")


def depth_of(name: str) -> int | None:
    found = [depth for known, depth in DEPTH.items() if name == known or name.startswith(f"{known}.")]
    return max(found, default=None)


LAYERED = {module: depth for module in MODULES if (depth := depth_of(dotted(module))) is not None}


@pytest.mark.parametrize("module", LAYERED)
def test_imports_go_one_way(module: str):
    assert {name for name in imported(module) if (depth_of(name) or 0) > LAYERED[module]} == set()


def test_every_layer_has_a_module():
    assert all(
        (PACKAGE / f"{name.replace('.', '/')}.py").exists() or (PACKAGE / name).is_dir()
        for layer in LAYERS
        for name in layer
    )


@pytest.mark.parametrize("module", MODULES)
def test_names_say_what_is_inside(module: str):
    assert not {"utils", "helper", "helpers", "common", "base", "manager", "handler", "misc"} & set(
        module.split("/")
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_library_prints_nothing_by_itself(module: str):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert not [call.lineno for call in calls if call.func.id == "print"]


def test_all_is_sorted_and_there():
    assert onnxprune.__all__ == sorted(onnxprune.__all__)
    assert all(hasattr(onnxprune, name) for name in onnxprune.__all__)


VERBS = [name for name in onnxprune.__all__ if callable(getattr(onnxprune, name)) and name.islower()]


@pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")
@pytest.mark.parametrize("name", VERBS)
def test_the_readme_shows_every_verb(name: str):
    assert re.search(rf"onnxprune[. ]{name}\b", README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in onnxprune.__all__ if not name.startswith("__")])
def test_every_exported_name_says_what_it_is(name: str):
    says = getattr(onnxprune, name).__doc__ or ""
    assert len(says.split()) > 3 and not says.startswith(
        f"{name}("
    )  # the latter is what a dataclass writes itself
