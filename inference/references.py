"""The reference pictures of a request, each taken as models.yaml says for its tag.

What a tag needs is loaded when a request first asks for it, on the device's own thread like a
model, and kept: building modules elsewhere would change torch's defaults under running pictures. A
request without references runs the model's plain pipelines, whatever has been loaded beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import structlog
import torch
from PIL.Image import Image

from inference import palette
from inference.adapters import load_controlnet, load_image_adapter, load_redux
from inference.arguments import Arguments, Maker
from inference.calls import seeded_vae
from inference.coalesce import Attached, Rendezvous, bring
from inference.conditions import condition
from inference.errors import ReferenceFailed
from inference.image_rows import ImageAdapter, ImageRows, ImageUse
from inference.job import Job, Mode, ReferenceTag
from inference.loading import first_line, sibling
from inference.model_spec import ModelSpec
from inference.pixels import Pictures, Reference, as_rgb
from inference.reference_spec import ReferenceSpec, Way

log = structlog.get_logger()

# What could not be loaded is not tried again for so long: many requests may need it.
_RETRY_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Guidance:
    """How the references of one picture change its call.

    `arguments` are added to those that `maker` makes; `tokens` [1, n, channels] go after those of
    the prompt.
    """

    pipe: Any
    maker: Maker
    pictures: Pictures
    arguments: Arguments
    image_use: ImageUse | None = None
    tokens: tuple[torch.Tensor, ...] = ()
    palette: Reference | None = None

    def prepare(self, pipe: Any, job: Job, index: int) -> None:
        """Make a private pipeline ready, inside the carrier that will call it."""
        if self.image_use is not None:
            bring(self.image_use)
            self.image_use.adapter.lend_eyes(pipe)
        if "controlnet" in pipe.components:
            pipe.__dict__["vae"] = seeded_vae(pipe.vae, job.seeds[index])

    def encoded(self, pipe: Any, arguments: Arguments) -> Arguments:
        """A call's arguments, the prompt as embeddings where tokens follow it."""
        if not self.tokens:
            return arguments
        prompt = {"prompt": arguments["prompt"], "prompt_2": None}
        longest = {key: arguments[key] for key in ("max_sequence_length",) if key in arguments}
        embeddings, pooled, _ = pipe.encode_prompt(**prompt, **longest)
        tokens = [one.to(embeddings.dtype) for one in self.tokens]
        rest = {key: value for key, value in arguments.items() if key != "prompt"}
        made = {"prompt_embeds": torch.cat([embeddings, *tokens], dim=1)}
        return rest | made | {"pooled_prompt_embeds": pooled}

    def finish(self, made: Image) -> Image:
        """The picture in the colours that were asked for."""
        if self.palette is None:
            return made
        return palette.transfer(made, self.palette.picture, self.palette.weight)


class References:
    """What one loaded model takes its references by; for the device's thread alone."""

    def __init__(
        self,
        spec: ModelSpec,
        pipes: Any,
        denoiser: Attached,
        device: str,
        rendezvous: Rendezvous,
    ) -> None:
        self.attached: list[Attached] = []
        self._spec = spec
        self._pipes = pipes
        self._denoiser = denoiser
        self._device = device
        self._rendezvous = rendezvous
        self._loaded: dict[Hashable, Any] = {}
        self._controlled: dict[tuple[Mode, tuple[ReferenceTag, ...]], Any] = {}
        self._failed: dict[Hashable, tuple[str, float]] = {}
        adapts = any(entry.by is Way.IP_ADAPTER for entry in spec.references.values())
        # a denoiser of several models has it once
        if adapts and not any(isinstance(data, ImageRows) for data in denoiser.row_data):
            denoiser.row_data.append(ImageRows(denoiser.module))

    @property
    def held_bytes(self) -> int:
        """What is loaded takes on the device."""
        modules = [one.module for one in self.attached]
        for part in self._loaded.values():
            if isinstance(part, ImageAdapter):
                modules += [*part.processors.values(), part.projection, part.image_encoder]
            elif hasattr(part, "image_embedder"):
                modules += [part.image_encoder, part.image_embedder]
        weights = [one for module in modules for one in module.parameters()]
        return sum(one.numel() * one.element_size() for one in weights)

    def guide(self, job: Job, pictures: Pictures) -> Guidance:
        """What a job's references come to; raises ReferenceFailed. A weight of 0 is left out."""
        routes = self._spec.rules.routes
        guidance = Guidance(
            pipe=self._pipes[job.mode],
            maker=routes[job.mode].arguments,
            pictures=pictures,
            arguments={},
        )
        counted = [one for one in pictures.references if one.weight > 0]
        by: dict[Way, list[Reference]] = {}
        for reference in counted:
            by.setdefault(self._entry(reference).by, []).append(reference)
        for way, found in by.items():
            self._guides[way](guidance, job, found)
        return guidance

    @property
    def _guides(self) -> dict[Way, Callable[[Guidance, Job, Sequence[Reference]], None]]:
        return {
            Way.CONTROLNET: self._control,
            Way.IP_ADAPTER: self._adapt,
            Way.REDUX: self._append,
            Way.NATIVE: self._show,
            Way.TRANSFER: self._colour,
        }

    def _control(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        entries = [self._entry(one) for one in references]
        shown = [
            condition(one.picture, entry.condition, job.width, job.height)
            for one, entry in zip(references, entries, strict=True)
        ]
        scales = [
            one.weight * entry.strength for one, entry in zip(references, entries, strict=True)
        ]
        guidance.pipe = self._control_pipe(job.mode, tuple(one.tag for one in references))
        field = self._spec.rules.controls[job.mode].picture_field
        alone = len(references) == 1
        guidance.arguments[field] = shown[0] if alone else shown
        guidance.arguments["controlnet_conditioning_scale"] = scales[0] if alone else scales
        modes = [entry.control_mode for entry in entries]
        if modes != [None]:
            guidance.arguments["control_mode"] = modes[0] if alone else modes

    def _adapt(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        (reference,) = references
        entry, component = self._entry(reference), self._spec.rules.denoisers[0]
        adapter = self._load(
            (reference.tag,),
            reference.tag,
            lambda: load_image_adapter(entry, guidance.pipe, component, self._device),
        )
        guidance.image_use = ImageUse(adapter, reference.weight * entry.strength)
        guidance.arguments["ip_adapter_image"] = as_rgb(reference.picture)
        if component == "transformer":
            # left alone it would ask the transformer itself how many black pictures it needs
            black = np.zeros((job.width, job.height, 3), np.uint8)
            guidance.arguments["negative_ip_adapter_image"] = [black]

    def _append(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        for reference in references:
            entry = self._entry(reference)
            prior = self._redux(reference.tag, entry)
            seen = prior.encode_image(as_rgb(reference.picture), self._device, 1)
            tokens = prior.image_embedder(seen).image_embeds
            guidance.tokens += (tokens * (reference.weight * entry.strength),)

    def _redux(self, tag: ReferenceTag, entry: ReferenceSpec) -> Any:
        denoiser: Any = self._denoiser.module
        place = ("redux", entry.source, entry.revision)
        return self._load(place, tag, lambda: load_redux(entry, denoiser.dtype, self._device))

    def _show(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        shown = tuple(one.picture for one in references)
        sources = guidance.pictures.sources + shown
        guidance.pictures = replace(guidance.pictures, sources=sources)
        if job.mode is Mode.GENERATE:
            guidance.maker = self._spec.rules.routes[Mode.EDIT].arguments

    def _colour(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        (guidance.palette,) = references

    def _entry(self, reference: Reference) -> ReferenceSpec:
        return self._spec.references[reference.tag]

    def _control_pipe(self, mode: Mode, tags: tuple[ReferenceTag, ...]) -> Any:
        """The pipeline of a mode over the model's own parts and the ControlNets of some tags."""
        nets = [self._controlnet(tag) for tag in tags]
        if (mode, tags) not in self._controlled:
            wanted = getattr(diffusers, self._spec.rules.controls[mode].pipeline)
            own = nets[0] if len(nets) == 1 else nets
            pipe = sibling(self._pipes[mode], wanted, controlnet=own)
            pipe.set_progress_bar_config(disable=True)
            self._controlled[mode, tags] = pipe
        return self._controlled[mode, tags]

    def _controlnet(self, tag: ReferenceTag) -> Any:
        entry, rules = self._spec.references[tag], self._spec.rules

        def load() -> Any:
            net = load_controlnet(entry, rules.controlnet, self._denoiser.module, self._device)
            attached = self._rendezvous.attach(net)
            # rows as large as the denoiser's, for which that was measured
            attached.budget_tokens = self._denoiser.budget_tokens
            self.attached.append(attached)
            return net

        place = (entry.source, entry.revision, entry.subfolder, entry.control_mode is None)
        return self._load(place, tag, load)

    def _load(self, key: Hashable, tag: ReferenceTag, load: Callable[[], Any]) -> Any:
        """What was loaded under a key, now if need be; a failure stands for a while."""
        if key in self._loaded:
            return self._loaded[key]
        reason, until = self._failed.get(key, ("", 0.0))
        if time.monotonic() > until:
            begin = time.monotonic()
            try:
                self._loaded[key] = load()
            except Exception as error:
                # whatever a checkpoint can be wrong about: the model serves all else
                reason = first_line(error)
                self._failed[key] = reason, time.monotonic() + _RETRY_SECONDS
                log.warning("reference.failed", model=self._spec.name, tag=tag, reason=reason)
            else:
                seconds = round(time.monotonic() - begin, 2)
                log.info("reference.loaded", model=self._spec.name, tag=tag, seconds=seconds)
                return self._loaded[key]
        raise ReferenceFailed(f"reference {tag!s}: {reason}"[:500])

    def detach(self) -> None:
        """Give the ControlNets their own forwards back."""
        for attached in self.attached:
            self._rendezvous.detach(attached)
