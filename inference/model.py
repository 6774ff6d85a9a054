"""A loaded model: its pipelines, its attached denoisers, and what the self-test found out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from inference.calls import (
    OnStep,
    accepted,
    check_numbers,
    generator,
    is_cast,
    lasting_dtype,
    private_copy,
    set_vae,
    watch_steps,
)
from inference.coalesce import Attached, Rendezvous, bring
from inference.job import Job, Mode
from inference.loading import denoisers, load_pipelines
from inference.loras.mix import LoraRows
from inference.loras.shelf import COMPUTED, LoraShelf
from inference.model_spec import ModelSpec
from inference.options.spec import OptionStatus, VaeOptions, requested
from inference.pixels import Pictures, keep_outside
from inference.preview import Previewer, fit_previewer
from inference.prompts import PromptCache
from inference.references.guide import References
from inference.rules import UNKNOWN_MODEL, rules_of
from inference.status import Lane


@dataclass(slots=True, eq=False, kw_only=True)
class LoadedModel:
    """One model on one device, used by that device's thread alone.

    `attached` are its denoisers, then the text encoders and VAE decoder that can be shared.
    A step of one picture takes `step_floor_seconds` whatever its size, and `step_slope_seconds`
    times its pixels over those of the default size. `stamp` is another one once its files are.
    """

    spec: ModelSpec
    pipes: Mapping[Mode, Any]
    attached: list[Attached]
    prompts: PromptCache
    previewer: Previewer | None
    loras: LoraShelf
    references: References
    lanes: dict[Mode, Lane] = field(default_factory=dict)
    step_floor_seconds: float = 0.0
    step_slope_seconds: float = 0.0
    options: dict[str, OptionStatus] = field(default_factory=dict)
    vae: VaeOptions = field(default_factory=VaeOptions)
    stamp: Hashable = None

    def call(
        self,
        job: Job,
        index: int,
        pictures: Pictures,
        on_step: OnStep | None = None,
        prompts: PromptCache | None = None,
        **overrides: Any,
    ) -> tuple[Any, Callable[[], Any]]:
        """A private pipeline for picture `index`, and the call that makes it.

        Inside the carrier that will make the call, where the job has LoRAs or references.
        """
        mix = self.loras.mix(job.loras)
        if mix.parts:
            bring(mix)
        guidance = self.references.guide(job, pictures)
        pipe = private_copy(
            guidance.pipe,
            self.prompts if prompts is None else prompts,
            (self.spec.name, self.stamp, mix.encoded()),
            job.sampler,
        )
        if self.vae.tiling or self.vae.slicing:
            pipe.__dict__["vae"] = set_vae(pipe.vae, self.vae)
        check_numbers(pipe)
        if on_step is not None:
            watch_steps(pipe, on_step)
        guidance.prepare(pipe, job, index)
        arguments = guidance.maker(job, self.spec, guidance.pictures) | guidance.arguments
        if self.spec.rules.any_pipeline:
            arguments = accepted(pipe, arguments)
        arguments |= overrides
        noise = generator(job.seeds[index])

        def make() -> Any:
            for module in self.step_caches:
                module._reset_stateful_cache()
            with lasting_dtype(getattr(pipe, "vae", None)):
                made = pipe(**guidance.encoded(pipe, arguments), generator=noise).images[0]
            if not isinstance(made, Image):
                # The self-test asks for arrays, and compares what the pipeline itself makes.
                return made
            made = guidance.finish(made)
            is_painted = job.mode is Mode.INPAINT
            return keep_outside(made, pictures, job.mask_blur) if is_painted else made

        return pipe, make

    @property
    def step_caches(self) -> list[Any]:
        """The denoisers that remember one step for the next, and so know one picture at a time."""
        modules = [one.module for one in self.attached if self.denoises(one)]
        return [module for module in modules if getattr(module, "is_cache_enabled", False)]

    @property
    def dtype(self) -> str:
        """What the denoiser computes in, as torch names it: "float32", "bfloat16"."""
        module: Any = self.attached[0].module
        # narrowed weights are kept in another than they are computed in
        kinds = [one.dtype for one in module.parameters() if one.dtype in COMPUTED]
        return str(kinds[0] if kinds else module.dtype).removeprefix("torch.")

    def denoises(self, attached: Attached) -> bool:
        """Whether it runs at every step, and not before or after."""
        pipe = self.pipes[self.spec.modes[0]]
        return attached in self.references.attached or any(
            attached.module is getattr(pipe, name, None) for name in self.spec.rules.denoisers
        )

    def is_alone(self, attached: Attached) -> bool:
        """Whether its forwards take one call at a time though they could take more."""
        pipe = self.pipes[self.spec.modes[0]]
        return self.vae.slicing and attached.module is getattr(pipe.vae, "decoder", None)

    def share(self, job: Job) -> float:
        """A picture's pixels over those of the default size, at which the model was measured."""
        width, height = self.spec.default_size
        return job.width * job.height / (width * height)

    def work_seconds(self, job: Job) -> float:
        """About how long the denoising of one picture takes alone."""
        step_seconds = self.step_floor_seconds + self.share(job) * self.step_slope_seconds
        return job.num_inference_steps * step_seconds

    def detach(self, rendezvous: Rendezvous) -> None:
        """Give the denoisers their own forwards back."""
        self.references.let_go()
        for attached in self.attached:
            rendezvous.detach(attached)


def load_model(
    spec: ModelSpec,
    device: str,
    rendezvous: Rendezvous,
    prompts: PromptCache,
    preview_side_px: int,
    lora_bytes: int = 2 * 1024**3,
    pipes: Mapping[Mode, Any] | None = None,
    *,
    helpers: bool = True,
    stamp: Hashable = None,
) -> LoadedModel:
    """Load a model and attach its denoisers; raises ModelFailed. The self-test comes after.

    Its `pipes` may have been read elsewhere, and lie on the device. Without `helpers`, text
    encoders and the VAE run alone.
    """
    if pipes is None:
        pipes = load_pipelines(spec, device)
    pipe = pipes[spec.modes[0]]
    modules = denoisers(spec, pipe)
    if helpers:
        modules += [module for module in _helpers(pipe) if rules_of(module) is not UNKNOWN_MODEL]
    previewer = fit_previewer(pipe, preview_side_px, device)
    attached = [rendezvous.attach(module) for module in modules]
    try:
        return LoadedModel(
            spec=spec,
            options=requested(spec),
            pipes=pipes,
            attached=attached,
            prompts=prompts,
            previewer=previewer,
            loras=_shelf(spec, pipe, attached, device, lora_bytes),
            references=References(spec, pipes, attached[0], device, rendezvous),
            stamp=stamp,
        )
    except Exception:
        for one in attached:
            rendezvous.detach(one)
        raise


def _shelf(
    spec: ModelSpec, pipe: Any, attached: list[Attached], device: str, limit_bytes: int
) -> LoraShelf:
    """A place for LoRAs on the attached modules that diffusers knows any for."""
    names = getattr(pipe, "_lora_loadable_modules", ())
    modules = {id(getattr(pipe, name, None)): name for name in names}
    found = {modules[id(one.module)]: one for one in attached if id(one.module) in modules}
    parts = {name: one.module for name, one in found.items()}
    shelf = LoraShelf(spec, pipe, parts, device, limit_bytes)
    for name, one in found.items():
        known = [data for data in one.row_data if isinstance(data, LoraRows)]
        if known:  # a module of several models: its rows' adapters are set once
            shelf.rows[name] = known[0]
        else:
            one.row_data.append(shelf.rows[name])
    return shelf


def _helpers(pipe: Any) -> list[Any]:
    """What runs before and after the denoising: text encoders, the VAE's decoder."""
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    found = [getattr(pipe, name, None) for name in names]
    vae = getattr(pipe, "vae", None)
    if not is_cast(vae):  # another call must not find it cast, nor have it cast back
        found.append(getattr(vae, "decoder", None))
    return [module for module in found if module is not None]
