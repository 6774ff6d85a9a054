"""Clients of before June 2026: what they send in today's words, and what they read beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What an input's role was called.
ROLES = {"init": "source", "context": "auto", "reference": "reference"}
ENHANCED = ("prefer_magic", "prefer_native")


def modern(values: Mapping[str, Any]) -> dict[str, Any]:
    """A body with its old fields read as new ones; whatever is in neither form is left to fail."""
    told = dict(values)
    if isinstance(prompt := told.get("prompt"), dict):
        told |= _prompt(prompt)
    if (rating := told.pop("content_rating", None)) is not None:
        told.setdefault("rating", _rating(rating) if isinstance(rating, dict) else rating)
    if isinstance(inputs := told.get("inputs"), list):
        told["inputs"] = [_input(one) for one in inputs]
    webhook, output = told.get("webhook"), told.get("output")
    if isinstance(webhook, dict) and "enabled" in webhook:
        told["webhook"] = {"dashboard": webhook["enabled"]} | webhook
    if isinstance(output, dict) and output.get("quality") == 0:
        told["output"] = output | {"quality": 1}
    return told


def _prompt(prompt: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"prompt": prompt.get("positive")}
    if "negative" in prompt:
        told["negative_prompt"] = prompt["negative"]
    if enhance := prompt.get("enhance"):
        told["magic_prompt"] = True if enhance in ENHANCED else enhance
    return told


def _rating(rating: dict[str, Any]) -> Any:
    if "levels" in rating and rating.get("enabled", True):
        return {"mode": "custom", "levels": rating["levels"]}
    return rating.get("enabled", False)


def _input(one: Any) -> Any:
    if not isinstance(one, dict) or "role" not in one:
        return one
    role = one["role"]
    return {"as": ROLES.get(role, role) if isinstance(role, str) else role} | one


def beside(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body with what is in `data` at the top as well, where it was before there was a `data`."""
    return {**body["data"], **body}


def to_old_images(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """An `OldImages`; there are none while the task is pending, and for a failed one."""
    images = result.get("images", ()) if result is not None else ()
    return {"images": [_old_image(one) for one in images]}


def _old_image(image: Mapping[str, Any]) -> dict[str, Any]:
    if image["status"] == "failed":
        return dict(image)
    told = {
        "status": "succeeded",
        "id": image["id"],
        "url": image["url"] or image["mynth_url"],
        "size": image["size"],
        "cost": image["cost"],
    }
    rating = image.get("rating", {})
    if "level" in rating:
        is_default = rating["level"] in ("sfw", "nsfw")
        told["content_rating"] = {
            "mode": "default" if is_default else "custom",
            "level": rating["level"],
        }
    return told
