"""The models.yaml that is shipped, and what it holds in comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
SHIPPED = ROOT / "models.yaml"


def commented(name: str) -> str:
    """The block between `# [name]` and `# [end]` as it reads without the #."""
    text = SHIPPED.read_text(encoding="utf-8")
    block = re.search(rf"^  # \[{name}\]\n(.*?)^  # \[end\]\n", text, re.M | re.S)
    assert block is not None
    lines = block[1].splitlines()
    assert all(line.startswith("  # ") for line in lines)
    return "".join("  " + line.removeprefix("  # ") + "\n" for line in lines)


def real_models() -> dict[str, Any]:
    """A whole file of the real models alone, under the hosted ids that can mean them."""
    told: dict[str, Any] = yaml.safe_load(
        f"models:\n{commented('catalogue')}aliases:\n{commented('aliases')}"
    )
    return told
