"""What a model on a device is to others: to the plan, and to whoever asks how it is."""

from __future__ import annotations

from inference.options.spec import OptionStatus, requested
from inference.residency import offload
from inference.residency.demand import Demand
from inference.residency.resident import Resident
from inference.residency.standing import Standing
from inference.status import ModelState, ModelStatus


def standing_of(one: Resident, demand: Demand, now: float, most_bytes: int) -> Standing:
    """How it stands, on a device where models may take `most_bytes`."""
    parts = one.parts(now)
    working = one.findings.working.peak_bytes(demand.largest) if one.findings else 0
    if demand.largest > 1.0 and one.findings is not None:
        # a picture larger than there is room for is tried all the same, and may fail alone
        room = most_bytes - sum(parts.values())
        working = max(one.findings.working.peak_bytes(), min(working, room))
    return Standing(
        name=one.spec.name,
        parts=parts,
        ram_parts=one.all_parts(now),
        working_bytes=working,
        on_device=one.on_device,
        in_ram=one.is_read and (one.in_ram or not one.on_device),
        reads_to_device=one.reader.reads_to_device,
        busy=one.is_busy,
        pinned=one.pinned,
        wanted=one.wanted and not one.is_barred,
        gentle=one.gentle,
        leaving=one.leaving,
        waiting_since=None if one.is_barred else demand.waiting_since,
        waiting_priority=demand.waiting_priority,
        running=demand.running,
        running_priority=demand.running_priority,
        drain_seconds=demand.drain_seconds,
        load_seconds=one.load_seconds,
        arrived=one.arrived,
        used=one.used,
    )


def status_of(one: Resident, now: float) -> ModelStatus:
    """How it is, for people and for whoever chooses a device."""
    model, findings = one.model, one.findings
    fetched_bytes, fetch_bytes = one.fetched_bytes
    return ModelStatus(
        name=one.spec.name,
        state=_state(one),
        reason=str(one.error) if one.error is not None else "",
        is_barred=one.is_barred,
        lanes=dict(model.lanes) if model is not None and one.is_ready else {},
        dtype=model.dtype if model is not None else "",
        token_budget=model.attached[0].budget_tokens if model is not None else 0,
        options=_options(one),
        pinned=one.pinned,
        weight_bytes=sum(one.all_parts(now).values()),
        working_bytes=findings.working.peak_bytes() if findings is not None else 0,
        fetched_bytes=fetched_bytes,
        fetch_bytes=fetch_bytes,
        last_used_at=one.used_at,
    )


def _options(one: Resident) -> dict[str, OptionStatus]:
    if one.model is None:
        return requested(one.spec)
    return {**one.model.options, **offload.told(one.spec, one.home.device)}


def _state(one: Resident) -> ModelState:
    if one.error is not None:
        return ModelState.FAILED
    if one.is_ready:
        return ModelState.READY
    if one.is_busy:
        return ModelState.LOADING
    return ModelState.IN_RAM if one.is_read else ModelState.UNLOADED
