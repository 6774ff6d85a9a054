"""Models that share the generator's parts: a folder with a transformer of its own and base.json.

`base.json` holds `{"base": "../tiny-flux"}`: the pipeline folder, seen from this one, that every
part comes from which does not lie here.
"""

import json
import os
from pathlib import Path
from typing import Any

import diffusers
import torch


def base_of(folder: Path) -> Path:
    """Return the pipeline folder that a model's other parts lie in: itself, if it is whole."""
    path = folder / "base.json"
    if not path.is_file():
        return folder
    try:
        return folder.joinpath(json.loads(path.read_text())["base"]).resolve()
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} names no base") from None


def write_base(folder: Path, base: Path) -> None:
    """Note the pipeline folder that a derived model's other parts lie in."""
    where = Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    (folder / "base.json").write_text(json.dumps({"base": where}) + "\n")


def own_parts(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Load the parts that lie in a derived model's own folder, by their name in the pipeline."""
    if base_of(folder) == folder:
        return {}
    parts = {}
    for config in sorted(folder.glob("*/config.json")):
        part = getattr(diffusers, json.loads(config.read_text())["_class_name"])
        parts[config.parent.name] = part.from_pretrained(
            config.parent, torch_dtype=dtype, use_safetensors=True
        )
    return parts


def load_derived(folder: Path, pipeline: type[Any]) -> Any:
    """Load a pipeline of the given class from a derived model's folder and its base's."""
    dtype = torch.float32
    pipe = pipeline.from_pretrained(
        base_of(folder), torch_dtype=dtype, use_safetensors=True, **own_parts(folder, dtype)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
