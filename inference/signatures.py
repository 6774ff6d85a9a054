"""What a diffusers pipeline's call takes, read from its source: at the door nothing loads torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def parameters_of(pipeline: str) -> frozenset[str] | None:
    """The names that a class's `__call__` takes; None where its source does not say."""
    path = _file_of(pipeline)
    if path is None:
        return None
    classes = {
        node.name: node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    call = next(_calls(classes[pipeline]), None)
    if call is None:
        return None
    return frozenset(argument.arg for argument in [*call.args.args, *call.args.kwonlyargs])


def _calls(made: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for node in made.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            yield node


def _file_of(pipeline: str) -> Path | None:
    """Where diffusers defines a class; 0.1 s, for there are some four hundred files."""
    package = find_spec("diffusers")
    if package is None or package.origin is None:
        return None
    opening = re.compile(rf"^class {re.escape(pipeline)}\(", re.M)
    files = sorted((Path(package.origin).parent / "pipelines").rglob("pipeline_*.py"))
    return next((one for one in files if opening.search(one.read_text(encoding="utf-8"))), None)
