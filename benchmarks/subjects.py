"""Which models are measured, where: those of a models.yaml, or random ones that are written."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.checkpoints import (
    SCALES,
    SKELETONS,
    TEXTS,
    is_complete,
    random_checkpoint,
    spec_of,
    weight_bytes,
    write_configs,
)
from inference.catalog import Catalog, load_catalog
from inference.model_spec import ModelSpec

# What a file system keeps for itself, and what else is written meanwhile.
_SPARE_BYTES = 2 << 30


def add_arguments(parser: argparse.ArgumentParser, *models: str) -> None:
    """What every benchmark of models asks; `models` are taken where none is named."""
    known = ", ".join(SKELETONS)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=Path, help="a models.yaml; without it weights are random")
    parser.add_argument(
        "--model", default=",".join(models), help=f"names with commas between; random are {known}"
    )
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="of random models")
    parser.add_argument("--text", choices=TEXTS, default="small", help="their text encoders")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path(tempfile.gettempdir()) / "darkroom-checkpoints"
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS)


def names_of(asked: argparse.Namespace) -> list[str]:
    """The models that are asked for."""
    return [name for name in asked.model.split(",") if name]


def spec_named(asked: argparse.Namespace, name: str, keep: Sequence[str] = ()) -> ModelSpec:
    """The entry of a model, its random checkpoint written; those to `keep` stay on the disk."""
    if asked.models is not None:
        return load_catalog(asked.models).models[name]
    folder = folder_of(asked, name)
    if name not in SKELETONS:
        raise SystemExit(f"{name}: random are {', '.join(SKELETONS)}; name --models for others")
    if not is_complete(folder):
        _make_room(asked, name, [folder_of(asked, one) for one in keep])
    random_checkpoint(name, folder, scale=asked.scale, text=asked.text)
    return spec_of(name, folder, asked.scale)


def spec_unwritten(asked: argparse.Namespace, name: str) -> ModelSpec:
    """The same entry, whether its checkpoint is there or not."""
    if asked.models is not None:
        return spec_named(asked, name)
    return spec_of(name, folder_of(asked, name), asked.scale)


def folder_of(asked: argparse.Namespace, name: str) -> Path:
    """Where a random checkpoint lies."""
    folder: Path = asked.checkpoints / f"{name}-{asked.scale}-{asked.text}"
    return folder


def catalog_of(*specs: ModelSpec) -> Catalog:
    """A catalog of these alone."""
    return Catalog(models={spec.name: spec for spec in specs})


def told(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    """What a figure says of its model."""
    random = {"scale": asked.scale, "text": asked.text} if asked.models is None else {}
    return {"model": name, "device": asked.device, **random}


def has_goals(asked: argparse.Namespace) -> bool:
    """Whether figures are of what the goals are about: full-size models on a card."""
    is_tiny = asked.models is None and asked.scale == "tiny"
    return asked.device.startswith("cuda") and not is_tiny


def needed_bytes(asked: argparse.Namespace, name: str) -> int:
    """What a random checkpoint will take of the disk."""
    with tempfile.TemporaryDirectory() as folder:
        plan = write_configs(name, Path(folder) / name, scale=asked.scale, text=asked.text)
    return weight_bytes(plan)


def fit_together(asked: argparse.Namespace, names: Sequence[str]) -> bool:
    """Whether the disk holds the random checkpoints of all of these at once."""
    missing = [name for name in names if not is_complete(folder_of(asked, name))]
    needed = sum(needed_bytes(asked, name) for name in missing)
    others = _others(asked, [folder_of(asked, name) for name in names])
    gained = sum(file.stat().st_size for one in others for file in one.rglob("*.safetensors"))
    return _free_bytes(asked) + gained - _SPARE_BYTES >= needed


def _make_room(asked: argparse.Namespace, name: str, keep: Sequence[Path]) -> None:
    """Remove random checkpoints of other models, as many as the new one needs to go."""
    needed = needed_bytes(asked, name) + _SPARE_BYTES
    for other in _others(asked, keep):
        if _free_bytes(asked) >= needed:
            return
        shutil.rmtree(other)
    if _free_bytes(asked) < needed:
        raise SystemExit(
            f"{name} takes {needed / 1e9:.0f} GB of {asked.checkpoints}, which has "
            f"{_free_bytes(asked) / 1e9:.0f}; name another place with --checkpoints"
        )


def _others(asked: argparse.Namespace, keep: Sequence[Path]) -> list[Path]:
    own = [
        asked.checkpoints / f"{name}-{scale}-{text}"
        for name in SKELETONS
        for scale in SCALES
        for text in TEXTS
    ]
    return [folder for folder in own if folder.exists() and folder not in keep]


def _free_bytes(asked: argparse.Namespace) -> int:
    asked.checkpoints.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(asked.checkpoints).free
