"""What a model is found able to do at load: its lane per mode and its token budgets.

Two short requests with different step counts, one starting a step late, are run alone, then in
merged forwards, then in turns. What comes out the same is allowed. A fixed list sends those to
*exclusive* whose code is known to change the shared model during a call. Between its forwards the
test lets others step, where it is run aside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import structlog
import torch
from PIL import Image

from inference import coalesce
from inference.coalesce import Abandon, Attached, Call, Carrier
from inference.faults import is_out_of_memory, without_tensors
from inference.job import Job, Mode
from inference.model import LoadedModel
from inference.options.compiled import plain_code
from inference.pixels import Pictures
from inference.prompts import PromptCache
from inference.residency.aside import breathe
from inference.residency.memory import Gauge, Working
from inference.residency.placement import modules_of
from inference.rules import UNKNOWN_MODEL
from inference.status import Lane

log = structlog.get_logger()

# These swap attention processors while they run: two at once disturb each other.
EXCLUSIVE_WORDS = ("PAG", "SAG", "LEdits", "AttendAndExcite")

# Largest difference of a pixel in 0..1 that counts as "the same picture". Merged rows take other
# matrix kernels: 1e-6 in float32, and in 16 bits a few units of the last place per layer.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 8e-2}

# 1, 2, 4, 8 and 16 rows.
MEASURED_SIZES = 5
# What gains less than this share is noise, and larger batches make everybody wait longer.
NEAR_BEST = 1.05
# A forward this long gains nothing from more rows, and the start should not wait for it.
LONGEST_FORWARD_SECONDS = 1.0
# Short forwards are measured more often: on a loaded machine the best of three swung by 5 %.
LEAST_MEASURED_SECONDS = 0.05


def run_selftest(model: LoadedModel, device: str = "cpu") -> Working:
    """Fill in the model's lanes, token budgets and step cost; the model is attached but idle.

    Returns what its operations take beside the weights.
    """
    for mode in model.spec.modes:
        model.lanes[mode] = find_lane(model, mode)
    gauge, most_calls = Gauge(device), {}
    for call, times in sample_calls(model, gauge):
        costs = measure(call)
        most_calls[operation(model, call.target)] = best_rows(costs)
        call.target.budget_tokens = best_rows(costs) * call.tokens
        if model.denoises(call.target):
            floor, slope = floor_and_slope(costs)
            model.step_floor_seconds += times * floor
            model.step_slope_seconds += times * slope
    log.info(
        "model.tested",
        model=model.spec.name,
        lanes={mode.value: lane.value for mode, lane in model.lanes.items()},
        token_budget=model.attached[0].budget_tokens,
        step_milliseconds=round((model.step_floor_seconds + model.step_slope_seconds) * 1000, 2),
        working_bytes=gauge.peaks,
    )
    return Working({name: (size, most_calls.get(name, 1)) for name, size in gauge.peaks.items()})


def operation(model: LoadedModel, attached: Attached) -> str:
    """What a module is called in its pipeline: "transformer", "decoder"."""
    parts = modules_of(model.pipes).items()
    return next((name for name, part in parts if part is attached.module), "decoder")


def forward(calls: Sequence[Call]) -> list[Any]:
    """One forward, after a breath for others."""
    breathe()
    return coalesce.forward(calls)


def find_lane(model: LoadedModel, mode: Mode) -> Lane:
    """The most sharing that leaves every picture as it is alone."""
    name = type(model.pipes[mode]).__name__
    if any(word in name for word in EXCLUSIVE_WORDS) or model.step_caches:
        return Lane.EXCLUSIVE
    if swaps_processors(model, mode):
        return Lane.EXCLUSIVE
    jobs = [probe_job(model, mode, steps=3, seed=1), probe_job(model, mode, steps=4, seed=2)]
    alone = [make_probe(model, job)[1]() for job in jobs]
    # without rules nothing merges, whatever is tried
    unknown = model.attached[0].rules is UNKNOWN_MODEL
    for lane in (Lane.INTERLEAVE,) if unknown else (Lane.MERGE, Lane.INTERLEAVE):
        if _same(alone, _together(model, jobs, merged=lane is Lane.MERGE), _tolerance(model)):
            return lane
    return Lane.EXCLUSIVE


def swaps_processors(model: LoadedModel, mode: Mode) -> bool:
    """Whether a call has put its own attention processors into the shared model meanwhile.

    Pictures alone would not tell: with two such calls in turns the difference was seen as small as
    2e-3, below what 16-bit weights are allowed.
    """
    before = _processors(model)
    carrier = Carrier(make_probe(model, probe_job(model, mode, steps=3, seed=1))[1])
    carrier.advance()
    while carrier.call is not None and carrier.call.target is not model.attached[0]:
        carrier.advance(forward([carrier.call])[0])
    during = _processors(model)
    if carrier.call is not None:
        carrier.throw(Abandon())
    return before != during


def _processors(model: LoadedModel) -> list[int]:
    modules = [attached.module for attached in model.attached]
    return [
        id(one) for module in modules for one in getattr(module, "attn_processors", {}).values()
    ]


def sample_calls(model: LoadedModel, gauge: Gauge) -> list[tuple[Call, int]]:
    """Each attached module's first forward in one step at the default size, and how many it has.

    The gauge sees what each takes, and what the pipeline's own code does between ("pipeline").
    """
    mode = model.spec.modes[0]
    job = probe_job(model, mode, steps=1, seed=1, size=model.spec.default_size)
    carrier = Carrier(make_probe(model, job)[1])
    with gauge.watch("pipeline"):
        carrier.advance()
    modules = [one.module for one in model.attached]
    made: list[Call] = []
    while (call := carrier.call) is not None:
        made.append(call)
        breathe()
        # torch's compiler would give up for good what it sees while operations are watched
        with plain_code(*modules), gauge.watch(operation(model, call.target)):
            (output,) = coalesce.forward([call])
        with gauge.watch("pipeline"):
            carrier.advance(output)
    if carrier.error is not None:
        raise carrier.error
    targets = [id(call.target) for call in made]
    return [(made[targets.index(one)], targets.count(one)) for one in dict.fromkeys(targets)]


def measure(call: Call) -> list[float]:
    """Seconds per call of forwards of 1, 2, 4 … equal calls, as far as it is worth looking."""
    module: Any = call.target.module
    if getattr(module, "is_cache_enabled", False):
        with module.cache_context("self-test"):  # what it holds is for so many rows
            return [_row_seconds([call])]
    costs = [_row_seconds([call])]
    if call.target.rules is UNKNOWN_MODEL:
        return costs
    while len(costs) < MEASURED_SIZES:
        rows = 2 ** len(costs)
        try:
            costs.append(_row_seconds([call] * rows))
        except Exception as error:
            if not is_out_of_memory(without_tensors(error)):
                raise
            torch.cuda.empty_cache()
            break
        if costs[-1] > 1.1 * min(costs) or costs[-1] * rows > LONGEST_FORWARD_SECONDS:
            break
    return costs


def best_rows(costs: Sequence[float]) -> int:
    """The fewest calls to a forward that cost about as little as any number does."""
    limit = min(costs) * NEAR_BEST
    return 1 << next(power for power, cost in enumerate(costs) if cost <= limit)


def floor_and_slope(costs: Sequence[float]) -> tuple[float, float]:
    """Seconds that a forward takes whatever its rows, and what each row adds: a straight line."""
    rows = np.array([2.0**power for power in range(len(costs))])
    if len(costs) < 2:
        return 0.0, costs[0]
    slope, floor = np.polyfit(rows, rows * np.array(costs), 1)
    return max(0.0, float(floor)), max(0.0, float(slope))


def _row_seconds(calls: Sequence[Call]) -> float:
    """Seconds of one merged forward per call: the best of three or more, after a warm-up."""
    clock = _clock()
    forward(calls)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < LEAST_MEASURED_SECONDS:
        breathe()
        begin = clock()
        coalesce.forward(calls)
        taken.append(clock() - begin)
    return min(taken) / len(calls)


def _clock() -> Callable[[], float]:
    """On a CPU with one thread, its own time: other load on the machine does not count."""
    if torch.cuda.is_available():

        def synchronized() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return synchronized
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def probe_job(
    model: LoadedModel, mode: Mode, *, steps: int, seed: int, size: tuple[int, int] | None = None
) -> Job:
    """A short job like any other, of the smallest size unless one is named."""
    spec = model.spec
    width, height = size or spec.smallest_size
    return Job(
        id=f"selftest-{seed}",
        model=spec.name,
        mode=mode,
        prompt=f"self-test {seed}",
        negative_prompt=spec.defaults.negative_prompt,
        images=(),
        width=width,
        height=height,
        seeds=(seed,),
        num_inference_steps=steps,
        guidance_scale=spec.defaults.guidance_scale,
        strength=1.0 if mode is Mode.INPAINT else 0.9,
    )


def make_probe(model: LoadedModel, job: Job) -> tuple[Any, Callable[[], Any]]:
    """Its private pipeline, and the call that makes its picture as an array, in a carrier."""
    size = (job.width, job.height)
    grey = Image.linear_gradient("L").resize(size)
    pictures = Pictures(sources=(grey.convert("RGB"),), mask=grey.point(_half_white))
    # remembered prompts would keep the text encoders out of the test
    return model.call(job, 0, pictures, prompts=PromptCache(0), output_type="np")


def _half_white(level: int) -> int:
    return 255 if level > 127 else 0


def _together(model: LoadedModel, jobs: Sequence[Job], *, merged: bool) -> list[Any] | None:
    """The jobs' pictures made together, the second starting a step late; None if one failed."""
    carriers = [Carrier(make_probe(model, job)[1]) for job in jobs]
    carriers[0].advance()
    if (head := carriers[0].call) is not None:
        carriers[0].advance(forward([head])[0])
    carriers[1].advance()
    try:
        while waiting := [carrier for carrier in carriers if carrier.call is not None]:
            _step(waiting, merged)
    except Exception as error:
        for carrier in carriers:
            if carrier.call is not None:
                carrier.throw(Abandon())
        log.info("selftest.failed", model=model.spec.name, merged=merged, reason=str(error)[:200])
        return None
    if any(carrier.error for carrier in carriers):
        return None
    return [carrier.result for carrier in carriers]


def _step(waiting: Sequence[Carrier], merged: bool) -> None:
    calls = [carrier.call for carrier in waiting if carrier.call is not None]
    if merged and len({call.key for call in calls}) == 1:
        outputs = forward(calls)
    else:
        outputs = [forward([call])[0] for call in calls]
    for carrier, output in zip(waiting, outputs, strict=True):
        carrier.advance(output)


def _same(alone: Sequence[Any], together: Sequence[Any] | None, tolerance: float) -> bool:
    if together is None:
        return False
    return all(
        one.shape == other.shape and float(np.abs(one - other).max()) <= tolerance
        for one, other in zip(alone, together, strict=True)
    )


def _tolerance(model: LoadedModel) -> float:
    return TOLERANCE[getattr(torch, model.dtype)]
