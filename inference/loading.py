"""From a ModelSpec to pipelines on a device: the only caller of `from_pretrained`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from inference import processors
from inference.demo.derived import base_of, own_parts
from inference.errors import HubFailed, ModelFailed
from inference.hub import cache
from inference.hub.checkpoint import cached_folder, part_in, parts_of
from inference.hub.download import Download
from inference.hub.fetch import bring
from inference.hub.files import Kind, Wanted, is_hub_id, weights_of
from inference.hub.narrow import obstacle
from inference.hub.repository import NO_SUCH_PLACE, why
from inference.job import Mode
from inference.misfits import (
    check_class,
    check_config,
    check_weights,
    check_whole,
    pipeline_class,
)
from inference.model_spec import ModelSpec
from inference.options import quantization
from inference.places import BUILTIN, BUILTIN_FOLDER
from inference.residency.quiet import loading
from inference.schedulers import check_samplers

# While a model is built, accelerate and diffusers patch torch.nn for the whole process, so two
# threads that build at once can leave weights on the meta device. Nothing is fetched within: what
# lies on the hub has come before.
LOAD_LOCK = threading.Lock()

# Parts that are held already, by their name in the pipeline, for a model's folders and dtype.
FindHeld = Callable[[Sequence[Path], torch.dtype], Mapping[str, Any]]


def load_pipelines(spec: ModelSpec, device: str) -> Mapping[Mode, Any]:
    """One pipeline per mode of the model, sharing all weights; raises ModelFailed with a reason."""
    pipes = read_pipelines(spec, device)
    pipes[spec.modes[0]].to(device)
    return pipes


def read_pipelines(
    spec: ModelSpec,
    device: str,
    find_held: FindHeld | None = None,
    download: Download | None = None,
) -> Mapping[Mode, Any]:
    """The same in RAM, in the dtype that they have on the device, for any thread but a worker's.

    What of it is not on this machine is fetched first, while others load.
    """
    try:
        fetch(spec, download)
        with LOAD_LOCK, loading(), torch.no_grad(), quantization.placing(spec, device):
            return _load(spec, device, find_held)
    except ModelFailed:
        raise
    except Exception as error:
        # whatever a checkpoint can be wrong about ends here: this model fails, the others serve
        reason = why(error, spec.source, spec.revision) or first_line(error)
        raise ModelFailed(f"{spec.source}: {reason}") from error


def is_here(spec: ModelSpec) -> bool:
    """Whether nothing has to be fetched to read the model; asks no hub."""
    return all(
        not is_hub_id(one.repository) or cache.find(one) is not None for one in weights_of(spec)
    )


def fetch(spec: ModelSpec, download: Download | None = None) -> None:
    """Bring what the model is read from to this machine; raises ModelFailed."""
    try:
        for one in weights_of(spec):
            if is_hub_id(one.repository):
                bring(one, download)
    except HubFailed as error:
        raise ModelFailed(str(error)) from error


def place_of(one: Wanted, download: Download | None = None) -> str:
    """Where something is read from; what lies on the hub is fetched, so not under the load lock.

    Raises HubFailed or ModelFailed.
    """
    if is_hub_id(one.repository):
        return str(bring(one, download))
    place = locate(one.repository)
    if not Path(place).exists():
        raise ModelFailed(f"{one.repository}: {NO_SUCH_PLACE}")
    return place


def locate(source: str) -> str:
    """The folder or hub id behind `source`; raises ModelFailed for an unknown built-in."""
    if not source.startswith(BUILTIN):
        return source
    folder = BUILTIN_FOLDER / source.removeprefix(BUILTIN)
    if not folder.is_dir():
        raise ModelFailed(f"{source}: no such built-in model")
    return str(folder)


def pick_dtype(spec: ModelSpec, device: str) -> torch.dtype:
    """The dtype weights are held and computed in."""
    if spec.dtype == "auto":
        return torch.float32 if device.startswith("cpu") else torch.bfloat16
    chosen: torch.dtype = getattr(torch, spec.dtype)
    return chosen


def folders_of(spec: ModelSpec) -> list[Path]:
    """Where the model's files lie on this machine, as far as they do; own parts come last."""
    folder = Path(locate(spec.source))
    if folder.is_dir():
        return list(dict.fromkeys((base_of(folder), folder)))
    cached = cached_folder(spec.source, spec.revision)
    return [cached] if cached is not None else []


def _load(spec: ModelSpec, device: str, find_held: FindHeld | None) -> Mapping[Mode, Any]:
    folders = folders_of(spec)
    if not folders:
        raise ModelFailed(f"{spec.source}: {NO_SUCH_PLACE}")
    base = folders[0]
    if not (base / "model_index.json").is_file():
        raise ModelFailed(f"{spec.source}: no model_index.json in that folder")
    check_class(spec, cache.read_json(base, "model_index.json"))
    parts = parts_of(*folders)
    check_weights(spec, parts)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    first, *others = spec.modes
    dtype = pick_dtype(spec, device)
    held = find_held(folders, dtype) if find_held is not None else {}
    own = own_parts(folders[-1], dtype) if folders[1:] else {}
    single = quantization.single_file(spec, base.as_posix(), dtype)
    pipe = _open(spec, base, {**own, **held, **single}, device)
    quantization.check(spec, pipe)
    pipe.set_progress_bar_config(disable=True)
    pipes = {first: pipe}
    for mode in others:
        pipes[mode] = sibling(pipe, pipeline_class(spec, mode))
        pipes[mode].set_progress_bar_config(disable=True)
    config = denoisers(spec, pipe)[0].config
    check_config(spec, pipe, config)
    check_whole(spec, pipe, parts)
    check_samplers(spec, pipe)
    return pipes


def _open(spec: ModelSpec, base: Path, parts: Mapping[str, Any], device: str) -> Any:
    """The pipeline of the first mode, with `parts` and our processors in place of the files'."""
    source, own, dtype = base.as_posix(), spec.rules.processors, pick_dtype(spec, device)
    pipe = pipeline_class(spec, spec.modes[0]).from_pretrained(
        source,
        **dict.fromkeys(own),  # None: left out, diffusers would ask for torchvision
        **parts,
        **quantization.arguments(spec, dtype),
        dtype=dtype,
        use_safetensors=True,
    )
    for part, name in own.items():
        reader = getattr(processors, name)
        pipe.register_modules(**{part: reader.read(source, part)})
        reader.prepare(pipe.text_encoder)
    return pipe


def denoisers(spec: ModelSpec, pipe: Any) -> list[Any]:
    """The modules that are run at every step, the first of them first; raises ModelFailed."""
    found = [getattr(pipe, name, None) for name in spec.rules.denoisers]
    present = [module for module in found if module is not None]
    if not present:
        names = ", ".join(spec.rules.denoisers)
        raise ModelFailed(f"{spec.source}: {type(pipe).__name__} has none of {names}")
    return present


def sibling(pipe: Any, wanted: type[Any], **own: Any) -> Any:
    """Another pipeline over the same modules, and `own` ones; `from_pipe` would cast them all."""
    modules, options = wanted._get_signature_keys(wanted)
    shared = {name: pipe.components[name] for name in modules if name in pipe.components}
    kept = {key: pipe.config[key] for key in options if key in pipe.config}
    return wanted(**shared | own, **kept)


def read_part(
    kind: Any, source: str, dtype: torch.dtype, revision: str | None = None, subfolder: str = ""
) -> Any:
    """What stands beside a model's own weights, in RAM; for any thread but a worker's.

    Fetched first where it is not here. Raises HubFailed, and whatever diffusers raises.
    """
    is_pipeline = issubclass(kind, diffusers.DiffusionPipeline)
    what = Kind.PIPELINE if is_pipeline else Kind.PART
    folder = place_of(
        Wanted(owner="", repository=source, revision=revision, kind=what, path=subfolder)
    )
    inside = {"subfolder": subfolder} if subfolder else {}
    part = part_in(Path(folder, subfolder))
    for one in parts_of(Path(folder)).values() if is_pipeline else [part] if part else []:
        if reason := obstacle(one):
            raise ModelFailed(f"{source}: {reason}")
    with LOAD_LOCK, loading(), torch.no_grad():
        return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **inside)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
