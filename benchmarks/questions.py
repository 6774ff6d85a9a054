"""What is run by one command, on a card and on a CPU: a table of scripts and their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_QUICK_OPTIONS = (
    "none",
    "attention _native_cudnn",
    "torchao-float8, bfloat16",
    "compile",
    "compile, torchao-float8, bfloat16",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One script, in full and `quick`; `minutes` and `quick_minutes` end it.

    `models` are random architectures, and `needs` how many of an own models.yaml take their place;
    0 is as many as are named. `text` is what their text encoders are by default.
    """

    script: str
    minutes: int
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    quick_models: tuple[str, ...] = ()
    needs: int = 1
    text: str = "small"
    quick_minutes: int = 6


# Those of one random checkpoint follow one another: the disk may not hold all.
ON_CARD = (
    Question(
        script="options",
        minutes=60,
        models=("flux-dev",),
        full=("--side", "1024", "--steps", "28", "--pictures", "1", "--rounds", "3"),
        quick=(
            *("--side", "1024", "--steps", "10", "--pictures", "1", "--rounds", "2"),
            *("--only", ";".join(_QUICK_OPTIONS)),
        ),
        tiny=(
            *("--side", "64", "--steps", "1", "--pictures", "1", "--rounds", "1"),
            *("--only", "none;attention _native_flash;attention sage"),
        ),
    ),
    Question(
        script="lora",
        minutes=20,
        models=("flux-dev",),
        full=("--sides", "512", "--strengths", "1", "--rounds", "5"),
        quick=("--sides", "512", "--strengths", "1", "--rounds", "2"),
        tiny=("--sides", "64", "--strengths", "1", "--adapters", "2", "--rounds", "1"),
    ),
    Question(
        script="memory",
        minutes=40,
        models=("flux-dev",),
        full=("--side", "1024", "--pictures", "3"),
        quick=("--side", "1024", "--pictures", "1", "--steps", "8"),
        tiny=("--side", "64", "--pictures", "1", "--steps", "1", "--crowd", "2"),
        text="full",
    ),
    Question(
        script="batching",
        minutes=60,
        models=("klein", "sdxl"),
        quick_models=("klein",),
        full=("--sides", "512,768,1024", "--requests", "24", "--repeats", "3", "--pairs", "5"),
        quick=(
            *("--sides", "512,768,1024", "--requests", "10", "--repeats", "1", "--pairs", "3"),
            *("--traces", "once, mixed"),
        ),
        tiny=(
            *("--sides", "64,128", "--requests", "2", "--repeats", "1", "--pairs", "1"),
            *("--traces", "once, mixed"),
        ),
    ),
    Question(
        script="swap",
        minutes=30,
        models=("flux-dev", "qwen-image"),
        quick_models=("flux-dev", "klein"),
        full=("--side", "1024", "--rounds", "5"),
        quick=("--side", "1024", "--rounds", "2"),
        tiny=("--side", "64", "--rounds", "1"),
        needs=2,
    ),
    Question(
        script="speed",
        minutes=60,
        models=("klein", "sdxl", "flux-dev", "qwen-image", "qwen-image-edit"),
        quick_models=("klein",),
        full=("--rounds", "3", "--crowd", "8"),
        quick=("--rounds", "2", "--crowd", "8"),
        tiny=("--side", "64", "--most-steps", "1", "--rounds", "1", "--crowd", "2"),
        needs=0,
        text="full",
    ),
)

# Of the built-in demo models and random ones of a few million weights.
ON_CPU = (
    Question(
        script="batching",
        minutes=60,
        full=("--device", "cpu"),
        quick=("--device", "cpu", "--repeats", "1", "--requests", "12"),
    ),
    Question(script="frontdoor", minutes=20, quick=("--rounds", "1", "--images", "32")),
    Question(script="residency", minutes=20, quick=("--rounds", "1", "--requests", "24")),
    Question(
        script="options",
        minutes=40,
        full=("--device", "cpu", "--side", "64", "--steps", "8", "--rounds", "3"),
        quick=(
            *("--device", "cpu", "--side", "64", "--steps", "4", "--rounds", "1"),
            *("--only", "none;bfloat16"),
        ),
    ),
    Question(
        script="lora",
        minutes=30,
        full=("--device", "cpu"),
        quick=("--device", "cpu", "--rounds", "1", "--adapters", "4", "--sides", "64"),
    ),
)


def on_card(
    question: Question,
    *,
    scale: str,
    is_quick: bool,
    text: str | None,
    own: Sequence[str],
) -> list[str] | None:
    """A question's arguments on a card; None where too few models of one's own are named.

    With the `tiny` scale it is asked of shrunk architectures, to see that everything runs.
    """
    if own:
        if len(own) < question.needs:
            return None
        names = [*own[: question.needs or None]]
        models = ["--model", ",".join(names)]
    else:
        chosen = question.quick_models if is_quick and question.quick_models else question.models
        asked_text = text or ("small" if is_quick or scale == "tiny" else question.text)
        models = ["--model", ",".join(chosen), "--scale", scale, "--text", asked_text]
    is_tiny = scale == "tiny" and not own
    rest = question.tiny if is_tiny else question.quick if is_quick else question.full
    return [*models, *rest]
