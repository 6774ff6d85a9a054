"""A call's private pipeline: what it owns, what it shares, and what it must not set off."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from inference.calls import accepted, as_map, generator, private_copy, total_steps, watch_steps
from inference.prompts import PromptCache
from inference.skeletons import tiny_flux, tiny_sdxl


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = tiny_sdxl()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def own(pipe: Any) -> Any:
    return private_copy(pipe, PromptCache(1 << 20), "model")


def test_the_scheduler_is_private_and_the_weights_are_shared(pipe: Any) -> None:
    one, other = own(pipe), own(pipe)
    assert len({id(each.scheduler) for each in (pipe, one, other)}) == 3
    assert one.unet is other.unet is pipe.unet
    one.scheduler.set_timesteps(3)
    assert other.scheduler.num_inference_steps is None
    assert pipe.scheduler.num_inference_steps is None


def test_the_end_of_one_call_frees_nothing_of_the_others(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(type(pipe), "maybe_free_model_hooks", lambda self: freed.append(True))
    own(pipe)("a fox", width=32, height=32, num_inference_steps=1)
    assert freed == []
    pipe("a fox", width=32, height=32, num_inference_steps=1)
    assert freed == [True]


def test_watched_steps_keep_their_signature_so_ancestral_noise_keeps_its_seed(pipe: Any) -> None:
    """Pipelines pass the generator on only if `step` says that it takes one."""
    pictures = []
    for watching in (False, True):
        each = own(pipe)
        scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
        each.__dict__["scheduler"] = scheduler
        seen: list[torch.Tensor] = []
        if watching:
            watch_steps(each, lambda scheduler, before, after, s=seen: s.append(after))  # type: ignore[misc]
            assert "generator" in inspect.signature(scheduler.step).parameters
        made = each("a fox", width=32, height=32, num_inference_steps=3, generator=generator(4))
        pictures.append(made.images[0].tobytes())
        assert len(seen) == (3 if watching else 0)
    assert pictures[0] == pictures[1]


def test_a_pipeline_gets_what_its_call_takes_and_a_wish_it_cannot_have_is_an_error() -> None:
    def call(prompt: str, *, width: int) -> None: ...

    pipe = SimpleNamespace(__call__=call)
    assert accepted(pipe, {"prompt": "a", "width": 8, "steps": 3}) == {"prompt": "a", "width": 8}
    assert accepted(pipe, {"prompt": "a", "negative_prompt": ""}) == {"prompt": "a"}
    with pytest.raises(ValueError, match="takes no negative_prompt"):
        accepted(pipe, {"negative_prompt": "blur"})


def test_steps_are_counted_as_the_pipeline_will_make_them() -> None:
    each = SimpleNamespace()
    assert total_steps(each, 7) == 7
    each._num_timesteps = 4
    assert total_steps(each, 7) == 4


def test_packed_latents_become_a_map() -> None:
    flux = tiny_flux()
    assert as_map(flux, torch.zeros(1, 4 * 6, 16), 96, 64).shape == (1, 4, 8, 12)
    already = torch.zeros(1, 4, 8, 8)
    assert as_map(flux, already, 64, 64) is already
