"""Assistants as a catalog names them, let go of at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from api.assist import Staff, hire
from api.assistants import Assistants
from inference.catalog import Catalog

Hire = Callable[..., Assistants]

MODELS: dict[str, Any] = {
    "plain": {
        "name": "plain",
        "family": "flux",
        "source": "builtin:tiny-flux",
        "limits": {"prompt_chars": 60},
    },
    "guided": {
        "name": "guided",
        "family": "sdxl",
        "source": "some/sdxl",
        "limits": {"prompt_chars": 40000},
    },
}


@pytest.fixture
async def hired() -> AsyncIterator[Hire]:
    """`hired(enhancer={...}, environment={...})` are those assistants."""
    staffs: list[Staff] = []

    def make(environment: dict[str, str] | None = None, **keys: Any) -> Assistants:
        catalog = Catalog.model_validate({"models": MODELS, **keys})
        staffs.append(hire(catalog, environment or {}))
        return staffs[-1].assistants

    yield make
    for staff in staffs:
        await staff.close()
