"""Requests as they arrive: the same trace is given to every system."""

from __future__ import annotations

import random
from dataclasses import dataclass

from inference.job import Job, Mode

STEPS = (4, 30)
GUIDANCE = (1.5, 3.0, 4.0, 5.0)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request and when it comes, in seconds of the run's own clock."""

    at: float
    job: Job


def make_job(name: str, model: str, side: int, steps: int, guidance: float, seed: int) -> Job:
    """A square picture of `side` pixels."""
    return Job(
        id=name,
        model=model,
        mode=Mode.GENERATE,
        prompt=f"a red circle number {seed}",
        negative_prompt="",
        images=(),
        width=side,
        height=side,
        seeds=(seed,),
        num_inference_steps=steps,
        guidance_scale=guidance,
        strength=1.0,
    )


def mixed(model: str, sides: tuple[int, ...], count: int, seed: int, gap: float) -> list[Arrival]:
    """Steps 4 to 30, four guidances, several sizes; Poisson with a mean `gap`, or all at once."""
    dice = random.Random(seed)
    at, arrivals = 0.0, []
    for number in range(count):
        wanted = make_job(
            f"r{number}",
            model,
            dice.choice(sides),
            dice.randint(*STEPS),
            dice.choice(GUIDANCE),
            number,
        )
        arrivals.append(Arrival(at, wanted))
        at += dice.expovariate(1 / gap) if gap else 0.0
    return arrivals


def uniform(model: str, side: int, count: int, steps: int) -> list[Arrival]:
    """Equal requests, all at once: what any batching server is good at."""
    return [
        Arrival(0.0, make_job(f"r{number}", model, side, steps, 3.0, number))
        for number in range(count)
    ]


def short_behind_long(
    model: str, sides: tuple[int, int], long: int, short: int, gap: float
) -> list[Arrival]:
    """`long` requests of 30 steps at once, then `short` ones of 4 steps, one each `gap` seconds.

    `sides` are those of the long and of the short pictures, in pixels.
    """
    first = [
        Arrival(0.0, make_job(f"long{number}", model, sides[0], 30, 3.0, number))
        for number in range(long)
    ]
    later = [
        Arrival(
            gap * (number + 1), make_job(f"short{number}", model, sides[1], 4, 3.0, 100 + number)
        )
        for number in range(short)
    ]
    return first + later
