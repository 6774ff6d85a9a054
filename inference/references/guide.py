"""The reference pictures of a request, each taken as models.yaml says for its tag.

What a tag needs is loaded when a request first asks for it. A request without references runs the
model's plain pipelines, whatever has been loaded beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import torch
from PIL.Image import Image

from inference.arguments import Arguments, Maker
from inference.calls import seeded_vae
from inference.coalesce import Attached, Rendezvous, bring
from inference.errors import ReferenceFailed
from inference.job import Job, Mode, ReferenceTag
from inference.loading import sibling
from inference.model_spec import ModelSpec
from inference.pixels import Pictures, Reference, as_rgb
from inference.references import palette
from inference.references.conditions import condition
from inference.references.image_rows import ImageUse
from inference.references.shelf import ReferenceShelf
from inference.references.spec import ReferenceSpec, Way


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
        if hasattr(pipe, "controlnet"):
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
    """What one loaded model does with its references; for the device's thread alone."""

    def __init__(
        self,
        spec: ModelSpec,
        pipes: Mapping[Mode, Any],
        denoiser: Attached,
        device: str,
        rendezvous: Rendezvous,
    ) -> None:
        self._spec = spec
        self._pipes = pipes
        self._device = device
        pipe = pipes[spec.modes[0]]
        self._shelf = ReferenceShelf(spec, pipe, denoiser, device, rendezvous)
        self._controlled: dict[tuple[Mode, tuple[ReferenceTag, ...]], Any] = {}

    @property
    def attached(self) -> list[Attached]:
        """The ControlNets, which run at every step like the denoiser."""
        return self._shelf.attached

    @property
    def held_bytes(self) -> int:
        """What is loaded for references takes on the device."""
        return self._shelf.held_bytes

    def let_go(self) -> None:
        """Free the device of what was loaded for references; nothing is being made."""
        self._controlled.clear()
        self._shelf.let_go()

    def ready(self, job: Job) -> bool:
        """Whether `guide` would not have to wait; what is missing is being read from now on."""
        tags = [image.tag for image in job.images if image.weight != 0 and image.tag is not None]
        entries = self._spec.references
        return self._shelf.ready([tag for tag in tags if tag in entries and entries[tag].source])

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
        route = self._spec.rules.controls[job.mode]
        given: dict[str, list[Any]] = {
            route.picture_field: shown,
            "controlnet_conditioning_scale": scales,
        }
        modes = [entry.control_mode for entry in entries]
        if route.mode_field and modes != [None]:
            given[route.mode_field] = modes
        alone = len(references) == 1
        guidance.arguments |= {key: one[0] if alone else one for key, one in given.items()}

    def _adapt(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        (reference,) = references
        strength = self._entry(reference).strength
        adapter = self._shelf.get(reference.tag)
        guidance.image_use = ImageUse(adapter, reference.weight * strength)
        guidance.arguments["ip_adapter_image"] = as_rgb(reference.picture)
        if adapter.component == "transformer":
            # left alone it would ask the transformer itself how many black pictures it needs
            black = np.zeros((job.width, job.height, 3), np.uint8)
            guidance.arguments["negative_ip_adapter_image"] = [black]

    def _append(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        for reference in references:
            prior = self._shelf.get(reference.tag)
            seen = prior.encode_image(as_rgb(reference.picture), self._device, 1)
            tokens = prior.image_embedder(seen).image_embeds
            guidance.tokens += (tokens * (reference.weight * self._entry(reference).strength),)

    def _show(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        shown = tuple(one.picture for one in references)
        sources = guidance.pictures.sources + shown
        guidance.pictures = replace(guidance.pictures, sources=sources)
        if job.mode is Mode.GENERATE:
            guidance.maker = self._spec.rules.routes[Mode.EDIT].arguments

    def _colour(self, guidance: Guidance, job: Job, references: Sequence[Reference]) -> None:
        (guidance.palette,) = references

    def _entry(self, reference: Reference) -> ReferenceSpec:
        entry = self._spec.references.get(reference.tag)
        if entry is None:
            # asked for before models.yaml was changed
            raise ReferenceFailed(f"reference {reference.tag.value!r}: taken no more")
        return entry

    def _control_pipe(self, mode: Mode, tags: tuple[ReferenceTag, ...]) -> Any:
        """The pipeline of a mode over the model's own parts and the ControlNets of some tags."""
        nets = [self._shelf.get(tag) for tag in tags]
        if (mode, tags) not in self._controlled:
            wanted = getattr(diffusers, self._spec.rules.controls[mode].pipeline)
            own = nets[0] if len(nets) == 1 else nets
            pipe = sibling(self._pipes[mode], wanted, controlnet=own)
            pipe.set_progress_bar_config(disable=True)
            self._controlled[mode, tags] = pipe
        return self._controlled[mode, tags]
