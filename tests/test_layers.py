"""Who may import whom, read from the source; and proof that the reader sees a breach."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

WEB_AND_SQL = ("api", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "aiosqlite")
TORCH = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors")
# Modules of the engine that decide and describe, and never compute.
TORCHLESS = (
    *("arguments", "catalog", "errors", "events", "feather", "job", "loras.spec", "model_spec"),
    *("pipelines", "pixels", "prices", "resolve", "samplers", "schedule", "settings", "sizes"),
    *(
        "assistants.spec",
        "balance",
        "caps",
        "homes",
        "hub.cache",
        "hub.checkpoint",
        "hub.download",
        "hub.fetch",
        "hub.narrow",
        "hub.partial",
        "hub.stream",
        "hub.repository",
        "hub.files",
        "options.spec",
        "residency.plan",
        "residency.standing",
        "signatures",
        "status",
        "yaml_schema",
        "yamlfile",
    ),
)
# What a dialect must reach by way of the use cases only.
INNER = (
    *("api.store", "api.storage", "api.build", "api.dispatcher", "api.run", "api.app"),
    *("api.ground", "api.services", "api.workshop", "api.keeping"),
    *("inference.engine", "inference.worker", "inference.hosts", "inference.loading"),
    "sqlalchemy",
)


@dataclass(frozen=True)
class Import:
    """One imported module or name, by its full dotted path, and where."""

    module: str
    name: str
    line: int

    def is_of(self, *packages: str) -> bool:
        return any(self.name == one or self.name.startswith(one + ".") for one in packages)

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def imports(root: Path, package: str) -> list[Import]:
    """Every import of a package, those inside functions and type-checking blocks too."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        is_package = parts[-1] == "__init__"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found += [Import(module, name, line) for name, line in names(node, module, is_package)]
    return found


def names(node: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            up = module.split(".")[: -(node.level - is_package) or None]
            base = ".".join([*up, base] if base else up)
        yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value, node.lineno


def dialect_of(module: str) -> str | None:
    """The provider's package that a module of `api.dialects` belongs to."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["api", "dialects"] and len(parts) > 2 else None


def is_package(root: Path, module: str) -> bool:
    return (root / Path(*module.split("."))).is_dir()


def engine_knows_no_service(root: Path) -> list[Import]:
    forbidden = (*WEB_AND_SQL, "prometheus_client", "pydantic_settings", "httpx2", "typer")
    return [one for one in imports(root, "inference") if one.is_of(*forbidden)]


def deciders_know_no_torch(root: Path) -> list[Import]:
    deciders = {f"inference.{name}" for name in TORCHLESS}
    return [
        one for one in imports(root, "inference") if one.module in deciders and one.is_of(*TORCH)
    ]


def service_knows_no_torch(root: Path) -> list[Import]:
    return [one for one in imports(root, "api") if one.is_of(*TORCH)]


def dialects_keep_to_themselves(root: Path) -> list[Import]:
    """A dialect's package imports no other's, and none of them a store or the engine."""
    found = []
    for one in imports(root, "api"):
        own, other = dialect_of(one.module), dialect_of(one.name)
        if own is None:
            continue
        strange = other is not None and other != own and is_package(root, f"api.dialects.{other}")
        if (is_package(root, f"api.dialects.{own}") and strange) or one.is_of(*INNER):
            found.append(one)
    return found


def build_alone_names_concrete_classes(root: Path) -> list[Import]:
    """The engine's stand-in names the engine; only `build` and its ground name the others."""
    concrete = (
        *("api.assist.hire", "api.late_engine"),
        *("api.storage.LocalStorage", "api.store.sqlite_database"),
        *("inference.engine", "inference.worker", "inference.hosts"),
    )
    return [
        one
        for one in imports(root, "api")
        if one.is_of(*concrete)
        and one.module not in ("api.build", "api.ground")
        and (one.module, one.name) != ("api.late_engine", "inference.engine.Engine")
    ]


def service_knows_no_command(root: Path) -> list[Import]:
    """Commands are on top: nothing but a command imports a command, typer or rich."""
    top = ("typer", "rich", "api.cli")
    return [
        one
        for one in imports(root, "api")
        if one.is_of(*top)
        if not one.module.startswith("api.cli")
    ]


Rule = Callable[[Path], list[Import]]
RULES: list[Rule] = [
    engine_knows_no_service,
    deciders_know_no_torch,
    service_knows_no_torch,
    dialects_keep_to_themselves,
    build_alone_names_concrete_classes,
    service_knows_no_command,
]

PLANTED = {
    "engine_knows_no_service": ("inference/worker.py", "from fastapi import FastAPI"),
    "deciders_know_no_torch": ("inference/schedule.py", "def f():\n    import torch.nn"),
    "service_knows_no_torch": ("api/outputs.py", "from torch import Tensor"),
    "dialects_keep_to_themselves": ("api/dialects/one/routes.py", "from api.dialects import two"),
    "build_alone_names_concrete_classes": (
        "api/submit.py",
        "if TYPE_CHECKING:\n    from inference.engine import Engine",
    ),
    "service_knows_no_command": ("api/app.py", "import typer"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_layer_reaches_up(root: Path, rule: Rule) -> None:
    assert [str(breach) for breach in rule(root)] == []


def test_every_torchless_module_exists(root: Path) -> None:
    missing = [
        name
        for name in TORCHLESS
        if not (root / "inference" / (name.replace(".", "/") + ".py")).exists()
    ]
    assert missing == []


def test_the_service_and_the_deciders_start_without_torch(root: Path) -> None:
    """By way of no other module either; torch takes seconds before a port could answer."""
    modules = [f"inference.{name}" for name in TORCHLESS]
    modules += ["api.cli.commands", "api.cli.serve", "api.cli.generate", "api.build", "api.app"]
    script = f"import sys, {', '.join(modules)}; print([m for m in {TORCH} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert (run.stdout.strip(), run.returncode) == ("[]", 0), run.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree in the project's shape, with nothing wrong in it."""
    files = {
        "inference/worker.py": "import torch",
        "inference/schedule.py": "from inference.job import Job",
        "api/build.py": "from inference.engine import Engine",
        "api/outputs.py": "from PIL import Image",
        "api/submit.py": "from api.tasks import Task",
        "api/app.py": "from api.dialects import one",
        "api/dialects/one/routes.py": "from . import schema\nfrom api.dialects.base import Desk",
        "api/dialects/one/schema.py": "import pydantic",
        "api/dialects/two/__init__.py": "from api.dialects.two.schema import Wire",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_clean_tree_breaks_no_rule(tree: Path, rule: Rule) -> None:
    assert rule(tree) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_planted_breach_is_found_by_its_rule_and_no_other(tree: Path, rule: Rule) -> None:
    name, text = PLANTED[rule.__name__]
    path = tree / name
    path.write_text(path.read_text() + text + "\n")
    module = name.removesuffix(".py").replace("/", ".")
    assert [breach.module for breach in rule(tree)] == [module]
    others = [other for other in RULES if other is not rule]
    assert all(other(tree) == [] for other in others)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("import a.b", "a.b"),
        ("from a import b", "a.b"),
        ("from . import b", "api.dialects.one.b"),
        ("from .. import two", "api.dialects.two"),
        ("from ..two import x", "api.dialects.two.x"),
        ("importlib.import_module('torch')", "torch"),
    ],
)
def test_every_way_to_import_is_seen(tree: Path, line: str, seen: str) -> None:
    (tree / "api/dialects/one/routes.py").write_text(line + "\n")
    found = [one.name for one in imports(tree, "api") if one.module == "api.dialects.one.routes"]
    assert found == [seen]
