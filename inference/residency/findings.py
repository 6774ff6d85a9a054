"""What loading a model found out: kept while it is away, so that it is not measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inference.job import Mode
from inference.model import LoadedModel
from inference.options.spec import OptionStatus
from inference.preview import Previewer
from inference.residency.memory import Working
from inference.status import Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What loading a model found out, which holds as long as its files stay the same."""

    lanes: Mapping[Mode, Lane]
    budgets_tokens: tuple[int, ...]
    step_floor_seconds: float
    step_slope_seconds: float
    working: Working
    previewer: Previewer | None
    options: Mapping[str, OptionStatus]

    @classmethod
    def of(cls, model: LoadedModel, working: Working) -> Findings:
        """Those of a model that was just tested."""
        return cls(
            lanes=dict(model.lanes),
            budgets_tokens=tuple(one.budget_tokens for one in model.attached),
            step_floor_seconds=model.step_floor_seconds,
            step_slope_seconds=model.step_slope_seconds,
            working=working,
            previewer=model.previewer,
            options=dict(model.options),
        )

    def give(self, model: LoadedModel) -> None:
        """Tell a model that was loaded again."""
        model.lanes |= self.lanes
        for attached, budget in zip(model.attached, self.budgets_tokens, strict=True):
            attached.budget_tokens = budget
        model.step_floor_seconds = self.step_floor_seconds
        model.step_slope_seconds = self.step_slope_seconds
        model.previewer = self.previewer
