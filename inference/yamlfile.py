"""YAML that knows its line numbers, and validation errors told in the file's own terms."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from inference.errors import CatalogError


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed file: plain values, and the nodes that remember where each stood."""

    path: Path
    values: Any
    root: yaml.Node | None

    def trace(self, location: Sequence[int | str]) -> tuple[int, str]:
        """The 1-based line of the deepest part of `location` in the file, and its dotted path.

        pydantic puts names of union members between the file's own keys; those are left out.
        """
        node, line, path = self.root, 1, []
        for part in location:
            found = _child(node, part)
            if found is not None:
                line, node = found
                name = str(part)
                path.append(name if name.isprintable() and name else repr(name))
        return line, ".".join(path)


class _Loader(yaml.SafeLoader):
    """Plain types only, and no key twice: YAML would quietly keep the last of the two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"key {key.value!r} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> YamlDocument:
    """Read one YAML file with plain types only; raises CatalogError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        _refuse_circles(root, set(), set())
        return YamlDocument(path, yaml.load(text, _Loader), root)
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", "not YAML")
        raise CatalogError(f"{path}:{line}: {problem}") from None
    except (ValueError, RecursionError) as error:
        # a date like 2026-13-45, bytes that are no UTF-8, ten thousand brackets
        raise CatalogError(f"{path}:1: not YAML: {error}") from None


def explain(error: ValidationError, document: YamlDocument, model: type[BaseModel]) -> str:
    """One line per problem: file:line: where: what; a misspelt key gets its nearest known one."""
    lines: dict[tuple[int, str], str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        location = problem["loc"]
        line, where = document.trace(location)
        message = problem["msg"].removeprefix("Value error, ").partition(" or instance of")[0]
        if problem["type"] == "extra_forbidden":
            message = f"unknown key{_nearest(str(location[-1]), _known_keys(model, location))}"
        elif problem["type"] == "missing":
            message = f"needs {location[-1]!r}"
        # of a union's complaints about one place, the first is about the form most files use
        lines.setdefault((line, where), f"{document.path}:{line}: {where or 'file'}: {message}")
    return "\n".join(text for _, text in sorted(lines.items()))


def _refuse_circles(node: yaml.Node | None, above: set[int], seen: set[int]) -> None:
    """Refuse what holds itself by an alias: it is endless for whoever walks through it."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    if id(node) in above:
        problem = "what is anchored here holds itself"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    for inner in node.value:
        for one in inner if isinstance(inner, tuple) else (inner,):
            _refuse_circles(one, above | {id(node)}, seen)
    seen.add(id(node))


def _child(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line + 1, item
    return None


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys allowed where the last part of `location` stands."""
    current: type[BaseModel] = model
    for part in location[:-1]:
        field = current.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field is not None else None
        current = inner or current
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"
