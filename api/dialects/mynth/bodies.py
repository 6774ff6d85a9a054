"""From tasks to what Mynth's clients get; pure, no I/O."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from api.clock import iso_utc
from api.dialects.mynth.replies import Status
from api.dialects.mynth.translate import PREFIX
from api.idempotency import Reply
from api.links import PictureLink
from api.tasks import Failure, ImageFormat, Output, Rating, Task, TaskKind, TaskState

LOCAL_USER = "local"
AUTO = "auto"

STATUSES: dict[TaskState, Status] = {
    TaskState.QUEUED: "pending",
    TaskState.RUNNING: "pending",
    TaskState.SUCCEEDED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "failed",
}
FAILURES = {
    TaskKind.GENERATE: "GENERATION_FAILED",
    TaskKind.RATE: "RATE_FAILED",
    TaskKind.ALT: "ALT_FAILED",
    TaskKind.REVIEW: "REVIEW_FAILED",
}
# What its clients read of a review beside each text, which nobody here judges.
UNJUDGED = "unspecified"


def money(credits: int, credit_usd: Decimal) -> str:
    """Credits in dollars, without an exponent or zeros that say nothing."""
    amount = credits * credit_usd
    return f"{amount.normalize():f}" if amount else "0"


def user_id(account: str) -> str:
    """The account; of a server without keys, a name for whoever uses it."""
    return account or LOCAL_USER


def to_created(task: Task, credit_usd: Decimal, token: str | None) -> Reply:
    """The reply to a creation; `token` is for pages, if one is wanted."""
    data: dict[str, Any] = {"taskId": task.id, "estimatedCost": money(task.credits, credit_usd)}
    if token is not None:
        data["access"] = {"publicAccessToken": token}
    return Reply(status=201, body={"data": data})


def to_estimate(costs: tuple[int, int], credit_usd: Decimal) -> dict[str, Any]:
    """An `Estimate` from the least and the most credits that a request may cost."""
    least, most = costs
    return {
        "data": {
            "estimatedCost": money(most, credit_usd),
            "currency": "usd",
            "estimateKind": "exact" if least == most else "upper_bound",
        }
    }


def to_type(task: Task) -> str:
    """Its kind as `image.generate`."""
    return f"image.{task.extras.kind}"


def to_status(task: Task) -> dict[str, Any]:
    """A `TaskStatus`."""
    return {"data": {"status": STATUSES[task.state]}}


def to_task_result(task: Task, link: PictureLink, credit_usd: Decimal) -> dict[str, Any]:
    """A `TaskResult`."""
    return {"data": _short(task) | {"result": to_result(task, link, credit_usd)}}


def to_task(task: Task, link: PictureLink, credit_usd: Decimal) -> dict[str, Any]:
    """A `Task`."""
    data = to_line(task, credit_usd) | {
        "userId": user_id(task.account),
        "apiKeyId": task.key_id,
        "request": dict(task.extras.asked or {}),
        "result": to_result(task, link, credit_usd),
    }
    if errors := to_errors(task):
        data["errors"] = errors
    return {"data": data}


def to_line(task: Task, credit_usd: Decimal) -> dict[str, Any]:
    """A `TaskLine`; what has failed costs nothing."""
    ended_ms = task.finished_ms or task.started_ms or task.created_ms
    cost = money(task.cost, credit_usd)
    times = {"createdAt": iso_utc(task.created_ms), "updatedAt": iso_utc(ended_ms)}
    return _short(task) | {"cost": cost if task.state.ended else None} | times


def to_result(task: Task, link: PictureLink, credit_usd: Decimal) -> dict[str, Any] | None:
    """What came of a task, None until all of it is there, or if nothing was made."""
    is_cut_short = task.state is TaskState.CANCELLED and task.pictures
    if task.state is not TaskState.SUCCEEDED and not is_cut_short:
        return None
    if task.extras.kind is not TaskKind.GENERATE:
        return {"url": (task.extras.asked or {}).get("url", "")} | _look(task)
    cost = money(task.picture_credits, credit_usd)
    images = {one.index: to_image(task, one, link, cost) for one in task.pictures}
    images |= {one.index: to_failed_image(one) for one in task.failures}
    result: dict[str, Any] = {
        "model": task.job.model if task.request.model == AUTO else task.request.model,
        "images": [images[index] for index in sorted(images)],
    }
    if (enhanced := task.findings.enhanced) is not None:
        result["magic_prompt"] = {"positive": enhanced.prompt}
        if enhanced.negative_prompt is not None:
            result["magic_prompt"]["negative"] = enhanced.negative_prompt
    return result


def to_errors(task: Task) -> list[dict[str, str]]:
    """Why a task failed; nothing else has errors."""
    if task.state is TaskState.CANCELLED:
        return [{"code": "CANCELLED", "message": "the task was cancelled"}]
    if task.state is not TaskState.FAILED:
        return []
    message = task.error_message or "the task failed"
    return [{"code": FAILURES[task.extras.kind], "message": message}]


def to_image(task: Task, output: Output, link: PictureLink, cost: str) -> dict[str, Any]:
    """An `ImageMade`."""
    ours = link(picture_path(task.id, output), output.key)
    image: dict[str, Any] = {
        "status": "success",
        "id": f"img_{task.id.removeprefix(PREFIX)}_{output.index}",
        "url": ours,
        "mynth_url": ours,
        "size": f"{output.width}x{output.height}",
        "cost": cost,
    }
    if (name := task.delivery.destination) is not None:
        copy = output.destination_url or ""
        image["url"] = copy if copy.startswith(("https://", "http://")) else None
        image["destination"] = {"status": "success", "name": name}
    if output.rating is not None:
        image["rating"] = _rating(output.rating)
    return image


def to_failed_image(failure: Failure) -> dict[str, Any]:
    """An `ImageFailed`."""
    error = {"code": FAILURES[TaskKind.GENERATE], "message": failure.message}
    return {"status": "failed", "error": error}


def picture_path(task_id: str, output: Output) -> str:
    """Where a picture is fetched by signed link."""
    extension = ImageFormat(output.media_type.removeprefix("image/")).extension
    return f"/image/files/{task_id}/{output.index}.{extension}"


def _short(task: Task) -> dict[str, Any]:
    return {"id": task.id, "type": to_type(task), "status": STATUSES[task.state]}


def _rating(rating: Rating) -> dict[str, Any]:
    if rating.level is not None:
        return {"status": "success", "level": rating.level}
    error = {"code": "RATING_FAILED", "message": rating.error or "the picture was not rated"}
    return {"status": "failed", "error": error}


def _look(task: Task) -> dict[str, Any]:
    found = dict(task.findings.result or {})
    if task.extras.kind is TaskKind.REVIEW:
        found["findings"] = [
            {"finding": text}
            | dict.fromkeys(("category", "severity", "where", "confidence"), UNJUDGED)
            for text in found.get("findings", ())
        ]
        found["strengths"] = [
            {"strength": text, "confidence": UNJUDGED} for text in found.get("strengths", ())
        ]
    return found
