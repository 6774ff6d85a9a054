"""The rendezvous on a small module: who waits, who gets which rows, how a call ends."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from inference.coalesce import Abandon, Carrier, Rendezvous, by_name, forward
from inference.rules import MODEL_RULES, ModelRules, Rule


class Doubler(torch.nn.Module):
    """Doubles rows and counts how often it really ran."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, rows: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        self.runs += 1
        return rows * scale


@pytest.fixture
def doubler(monkeypatch: pytest.MonkeyPatch) -> Doubler:
    rules = ModelRules(latents="rows", rules={"rows": Rule.ROWS})
    monkeypatch.setattr("inference.rules.MODEL_RULES", {**MODEL_RULES, "Doubler": rules})
    return Doubler()


def three_times(module: Doubler, start: float, **options: Any) -> Carrier:
    def run() -> float:
        rows = torch.full((1, 1), start)
        for _ in range(3):
            rows = module(rows, **options)
        return float(rows)

    return Carrier(run)


def test_calls_of_equal_key_share_a_forward(doubler: Doubler) -> None:
    Rendezvous().attach(doubler)
    carriers = [three_times(doubler, start) for start in (1.0, 10.0)]
    for carrier in carriers:
        carrier.advance()
    for _ in range(3):
        calls = [carrier.call for carrier in carriers if carrier.call]
        assert len({call.key for call in calls}) == 1
        for carrier, rows in zip(carriers, forward(calls), strict=True):
            carrier.advance(rows)
    assert [carrier.result for carrier in carriers] == [8.0, 80.0]
    assert doubler.runs == 3


def test_a_different_option_is_a_different_key(doubler: Doubler) -> None:
    Rendezvous().attach(doubler)
    carriers = [three_times(doubler, 1.0), three_times(doubler, 1.0, scale=3.0)]
    for carrier in carriers:
        carrier.advance()
    assert carriers[0].call and carriers[1].call
    assert carriers[0].call.key != carriers[1].call.key


def test_outside_a_carrier_the_module_is_itself(doubler: Doubler) -> None:
    rendezvous = Rendezvous()
    attached = rendezvous.attach(doubler)
    assert float(doubler(torch.ones(1, 1))) == 2.0
    rendezvous.detach(attached)
    assert doubler.forward == attached.forward


def test_an_error_is_raised_where_the_forward_stood(doubler: Doubler) -> None:
    Rendezvous().attach(doubler)
    caught: list[str] = []

    def run() -> str:
        try:
            doubler(torch.ones(1, 1))
        except ValueError as error:
            caught.append(str(error))
            raise
        return "unreachable"

    carrier = Carrier(run)
    carrier.advance()
    carrier.throw(ValueError("here"))
    assert carrier.ended and caught == ["here"]
    assert isinstance(carrier.error, ValueError)


def test_abandoned_calls_run_their_cleanup(doubler: Doubler) -> None:
    Rendezvous().attach(doubler)
    cleaned: list[bool] = []

    def run() -> None:
        try:
            doubler(torch.ones(1, 1))
        finally:
            cleaned.append(True)

    carrier = Carrier(run)
    carrier.advance()
    carrier.throw(Abandon())
    assert carrier.ended and cleaned == [True]


def test_a_call_that_never_started_can_be_abandoned(doubler: Doubler) -> None:
    carrier = three_times(doubler, 1.0)
    carrier.throw(Abandon())
    assert carrier.ended and isinstance(carrier.error, Abandon)
    assert doubler.runs == 0


def test_a_call_without_a_forward_ends_at_once() -> None:
    carrier = Carrier(lambda: 7)
    carrier.advance()
    assert carrier.ended and carrier.result == 7 and carrier.call is None


def test_arguments_are_known_by_name_however_they_are_passed() -> None:
    def forward(rows: int, time: int = 0, **options: int) -> None: ...

    signature = inspect.signature(forward)
    assert by_name(signature, (1,), {"extra": 3}) == {"rows": 1, "extra": 3}
    assert by_name(signature, (1, 2), {}) == {"rows": 1, "time": 2}
