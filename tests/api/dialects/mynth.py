"""What both files about Mynth's translations use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from api.body import Body
from api.dialects.mynth import translate
from api.tasks import Extras, Task

CENT = Decimal("0.01")
ID = "tsk_01K0000000ABCDEFGHJKMNPQRS"


def link(path: str, key: str) -> str:
    return f"https://d.example{path}?key=k{key.rpartition('/')[2][0]}"


def body_of(values: dict[str, Any]) -> Body:
    return translate.plain_json(Body(values=values))


def maker(task_in: Callable[[str], Task]) -> Callable[..., Task]:
    """Makes a task of this dialect, in the state of that name and with extras of those fields."""

    def make(state: str, **extras: Any) -> Task:
        asked = {"prompt": "a red fox", "count": 2, "metadata": {"order": 7}}
        wish = Extras(**({"asked": asked} | extras))
        return replace(
            task_in(state), id=ID, dialect="mynth", account="team", key_id="a1B2c3D4e5", extras=wish
        )

    return make
