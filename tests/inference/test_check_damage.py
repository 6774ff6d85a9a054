"""Whatever files can be wrong about: told of their entry in one line, and the others told too."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.commands import app
from inference.catalog import Catalog
from inference.check.cards import Card
from inference.check.entries import check
from inference.check.report import Report
from inference.hub.sources import Sources
from inference.loading import first_line, load_pipelines

WEIGHTS = "diffusion_pytorch_model.safetensors"
PLENTY = 10**12

pytestmark = pytest.mark.timeout(240)

Spoil = Callable[[Path], Any]


def weights(change: Callable[[Path], Any]) -> Spoil:
    """Something done to the transformer's file."""
    return lambda folder: change(folder / "transformer" / WEIGHTS)


def put(name: str, content: str | bytes) -> Spoil:
    """Something else in the place of a file."""
    told = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(told)


def header(told: Any) -> bytes:
    text = json.dumps(told).encode() if not isinstance(told, bytes) else told
    return struct.pack("<Q", len(text)) + text


def instead(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def done(file: Path) -> None:
        file.unlink()
        make(file)

    return done


def indexed(content: str) -> Spoil:
    def done(folder: Path) -> None:
        (folder / "transformer" / WEIGHTS).rename(folder / "transformer" / "part.safetensors")
        (folder / "transformer" / f"{WEIGHTS}.index.json").write_text(content)

    return done


def both(*changes: Spoil) -> Spoil:
    return lambda folder: [change(folder) for change in changes]


def told(name: str, **keys: Any) -> Spoil:
    def done(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | keys))

    return done


FILE = f"transformer: {WEIGHTS}"
INDEX = f"transformer/{WEIGHTS}.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
CONFIG = "transformer/config.json"

DAMAGES: dict[str, tuple[Spoil, str]] = {
    "empty": (weights(lambda file: file.write_bytes(b"")), f"{FILE} is empty"),
    "short": (weights(lambda file: file.write_bytes(b"12345")), f"{FILE} is not whole"),
    "cut": (
        weights(lambda file: os.truncate(file, file.stat().st_size - 1)),
        f"{FILE} is not whole",
    ),
    "cut-header": (weights(lambda file: os.truncate(file, 50)), f"{FILE} is not whole"),
    "longer": (
        weights(lambda file: os.truncate(file, file.stat().st_size + 1)),
        f"{FILE} is not whole",
    ),
    "pointer": (put(f"transformer/{WEIGHTS}", POINTER), f"{FILE} is a pointer of git-lfs"),
    "html": (put(f"transformer/{WEIGHTS}", "\n<!DOCTYPE html><html>"), f"{FILE} is a web page"),
    "garbage": (put(f"transformer/{WEIGHTS}", b"\xff" * 900), f"{FILE} is no safetensors file"),
    "zip": (put(f"transformer/{WEIGHTS}", b"PK\x03\x04" * 99), f"{FILE} is no safetensors file"),
    "huge": (
        put(f"transformer/{WEIGHTS}", struct.pack("<Q", 1 << 62) + b"{}"),
        f"{FILE} is no safetensors file",
    ),
    **{
        f"header-{number}": (put(f"transformer/{WEIGHTS}", header(one)), f"{FILE} has a header")
        for number, one in enumerate(
            [
                b"{",
                b'{"\xff": 1}',
                b'{"a":' + b"[" * 90_000,
                {"a": 5},
                {"a": {}},
                {"a": TENSOR | {"shape": [-1]}},
                {"a": TENSOR | {"shape": 7}},
                {"a": TENSOR | {"dtype": 7}},
                {"a": TENSOR | {"data_offsets": [0]}},
                {"a": TENSOR | {"data_offsets": ["0", "4"]}},
            ]
        )
    },
    "gone": (weights(Path.unlink), "transformer: no safetensors file"),
    "folder": (weights(instead(Path.mkdir)), f"{FILE} is no file"),
    "pipe": (weights(instead(os.mkfifo)), f"{FILE} is no file"),
    "loop": (
        weights(instead(lambda file: file.symlink_to(file.name))),
        f"{WEIGHTS}: Too many levels of symbolic links",
    ),
    "dangling": (
        weights(instead(lambda file: file.symlink_to("blob"))),
        f"{WEIGHTS}: No such file or directory",
    ),
    "locked": (weights(lambda file: file.rename(file.with_name("locked.safetensors"))), "denied"),
    "index-gone": (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
    "index-empty": (put("model_index.json", ""), "model_index.json is no JSON"),
    "index-bytes": (put("model_index.json", b"\xff\xfe"), "model_index.json is no JSON"),
    "index-deep": (put("model_index.json", "[" * 90_000), "model_index.json is no JSON"),
    "index-list": (put("model_index.json", "[]"), "model_index.json is no table"),
    "index-loop": (
        lambda folder: instead(lambda file: file.symlink_to(file.name))(
            folder / "model_index.json"
        ),
        "no model_index.json",
    ),
    "index-short": (
        told("model_index.json", vae=["diffusers"]),
        "vae: model_index.json does not say which class",
    ),
    "index-class": (
        told("model_index.json", vae=["diffusers", "NoSuchVae"]),
        "vae: diffusers has no NoSuchVae",
    ),
    "index-library": (told("model_index.json", vae=["os", "system"]), "vae: os has no system"),
    "index-other": (
        told("model_index.json", _class_name="StableDiffusionXLPipeline"),
        "model_index.json is of StableDiffusionXLPipeline, and family 'flux' needs one like Flux",
    ),
    "shards-json": (indexed("{"), f"{INDEX} is no JSON"),
    "shards-none": (indexed("{}"), f"{INDEX} is no index of weights"),
    "shards-list": (indexed('{"weight_map": ["a"]}'), f"{INDEX} is no index of weights"),
    "shards-lost": (
        indexed('{"weight_map": {"a": "lost.safetensors"}}'),
        "has no transformer/lost.safetensors, which it lists",
    ),
    "shards-numbers": (indexed('{"weight_map": {"a": 5}}'), f"{INDEX} is no index of weights"),
    "config-empty": (put(CONFIG, ""), f"{CONFIG} is no JSON"),
    "config-html": (put(CONFIG, "<html>"), f"{CONFIG} is no JSON"),
    "config-list": (put(CONFIG, "[]"), f"{CONFIG} is no table"),
    "config-words": (told(CONFIG, num_layers="many"), "transformer: its config makes no Flux"),
    "config-deep": (told(CONFIG, num_layers=10**7), "its config has 10000000 as its num_layers"),
    "config-gone": (lambda folder: (folder / CONFIG).unlink(), "transformer: no config.json"),
    "part-file": (
        both(lambda folder: shutil.rmtree(folder / "vae"), put("vae", "x")),
        "vae: named in model_index.json, and there is no such folder",
    ),
    "base": (put("base.json", "{}"), "base.json names no base"),
    "base-shards": (
        both(put("base.json", '{"base": "../first"}'), indexed("[]")),
        f"{WEIGHTS}.index.json is no index of weights",
    ),
    "base-away": (put("base.json", '{"base": "../away"}'), "model_index.json: No such file"),
}


@pytest.fixture(scope="module")
def entries(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """One entry for each damage, and a whole one at either end."""
    place = tmp_path_factory.mktemp("damaged")
    for name in ("first", *DAMAGES, "last"):
        folder = Path(shutil.copytree(folders["flux"], place / name))
        if name in DAMAGES:
            DAMAGES[name][0](folder)
    return {
        name: {"family": "flux", "source": str(place / name), "sizes": ["128x128"]}
        for name in ("first", *DAMAGES, "last")
    }


@pytest.fixture(scope="module")
def report(entries: dict[str, dict[str, Any]]) -> Report:
    catalog = Catalog.model_validate(
        {"models": {name: {"name": name, **entry} for name, entry in entries.items()}}
    )
    opened = Path.open

    def open_unless_locked(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "locked.safetensors":
            # what the system says to who may not; tests may run as one who may all
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    with Sources() as sources, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_unless_locked)
        return check(catalog, [*entries], [Card("cpu", PLENTY)], sources)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_by_file_and_cause(report: Report, name: str) -> None:
    (one,) = (one for one in report.models if one.name == name)
    assert any(DAMAGES[name][1] in problem for problem in one.problems), one.problems
    assert all("\n" not in problem for problem in one.problems)
    assert not one.is_servable


def test_the_others_are_told_as_if_there_was_none(report: Report) -> None:
    first, last = report.models[0], report.models[-1]
    assert first.problems == last.problems == [] and first.notes == []
    assert first.pictures and first.pictures == last.pictures
    (denoiser,) = (part for part in first.parts if part.name == "transformer")
    assert report.devices[0].weight_bytes == first.weight_bytes + denoiser.size_bytes


def test_single_files_are_looked_into_too(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "good.safetensors").write_bytes(header({"a": TENSOR}) + bytes(4))
    (tmp_path / "bad.safetensors").write_text(POINTER)
    (tmp_path / "bad.gguf").write_text("<html>")
    lora = {"source": str(tmp_path), "file": "bad.safetensors"}
    entry = {
        "name": "m",
        "family": "flux",
        "source": str(folders["flux"]),
        "sizes": ["128x128"],
        "loras": {
            "good": {"source": str(tmp_path / "good.safetensors")},
            "bad": {"source": str(tmp_path / "bad.safetensors")},
            "within": lora,
        },
        "quantization": {"kind": "gguf", "file": str(tmp_path / "bad.gguf")},
    }
    with Sources() as sources:
        catalog = Catalog.model_validate({"models": {"m": entry}})
        (one,) = check(catalog, ["m"], [Card("cpu", PLENTY)], sources).models
    found = sorted(problem.partition(": run")[0] for problem in one.problems)
    pointer = "bad.safetensors is a pointer of git-lfs and not the weights"
    assert found == [
        f"m, LoRA bad: {pointer}",
        f"m, LoRA within: {pointer}",
        "m, quantization: bad.gguf is no gguf file",
    ]


def test_the_command_ends_well_too(
    entries: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {name: entries[name] for name in ("empty", "garbage", "shards-none", "last")}
    path = tmp_path / "models.yaml"
    path.write_text(json.dumps({"models": chosen}))
    done = CliRunner().invoke(app, ["models", "check", "--models", str(path)])
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert len(re.findall("^  problem", done.stdout, re.M)) == 3
    assert "last: can be served" in done.stdout
    assert "weights of the 1 that can be served" in done.stdout


def test_loading_tells_the_same_of_another_architecture(entries: dict[str, dict[str, Any]]) -> None:
    name = "index-other"
    catalog = Catalog.model_validate({"models": {name: {"name": name, **entries[name]}}})
    with pytest.raises(Exception, match="is of StableDiffusionXLPipeline") as refused:
        load_pipelines(catalog.models[name], "cpu")
    assert DAMAGES[name][1] in first_line(refused.value)
