"""What is read from diffusers' source, against what its classes say themselves."""

from __future__ import annotations

import inspect

import diffusers
import pytest

from inference.signatures import parameters_of

NAMES = [
    *("StableDiffusionPipeline", "PixArtSigmaPipeline", "SanaSprintPipeline", "OmniGenPipeline"),
    *("StableDiffusionXLPAGPipeline", "WuerstchenCombinedPipeline", "KandinskyPipeline"),
]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_class_says(name: str) -> None:
    taken = inspect.signature(getattr(diffusers, name).__call__).parameters.values()
    assert parameters_of(name) == {one.name for one in taken if one.kind is not one.VAR_KEYWORD}


@pytest.mark.parametrize("name", ["NoSuchPipeline", "DiffusionPipeline", "(", ""])
def test_what_the_source_does_not_say_is_left_open(name: str) -> None:
    assert parameters_of(name) is None
