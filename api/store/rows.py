"""Records as the tables hold them, and the cursor that walks them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row

from api.errors import BadRequest
from api.tasks import Delivery, Extras, Failure, Findings, Output, Rating, Task, TaskState
from inference.job import ImageRequest, load_job

_REQUEST = TypeAdapter(ImageRequest)
_DELIVERY = TypeAdapter(Delivery)
_EXTRAS = TypeAdapter(Extras)
_FINDINGS = TypeAdapter(Findings)
_RATING = TypeAdapter(Rating)


def dump_request(request: ImageRequest) -> str:
    """A request as JSON text, without what it left to the model."""
    return _REQUEST.dump_json(request, exclude_none=True).decode()


def dump_delivery(delivery: Delivery) -> str:
    """A delivery as JSON text, without what it left open."""
    return _DELIVERY.dump_json(delivery, exclude_defaults=True).decode()


def dump_extras(extras: Extras) -> str:
    """Extras as JSON text, without those that were not asked for."""
    return _EXTRAS.dump_json(extras, exclude_defaults=True).decode()


def dump_findings(findings: Findings) -> str:
    """Findings as JSON text, without what did not come up."""
    return _FINDINGS.dump_json(findings, exclude_defaults=True).decode()


def dump_rating(rating: Rating | None) -> str | None:
    """A rating as JSON text."""
    return None if rating is None else _RATING.dump_json(rating, exclude_none=True).decode()


def to_task(row: Row[Any], outputs: Iterable[Row[Any]]) -> Task:
    """The record in one row of `tasks` and its rows of `outputs`."""
    return Task(
        id=row.id,
        dialect=row.dialect,
        account=row.account,
        key_id=row.key_id,
        state=TaskState(row.state),
        request=_REQUEST.validate_json(row.request),
        job=load_job(row.job),
        delivery=_DELIVERY.validate_json(row.delivery),
        extras=_EXTRAS.validate_json(row.extras),
        findings=_FINDINGS.validate_json(row.findings),
        credits=row.credits,
        attempt=row.attempt,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        finished_ms=row.finished_ms,
        cancel_requested=row.cancel_requested,
        error_kind=row.error_kind,
        error_message=row.error_message,
        files_deleted_ms=row.files_deleted_ms,
        outputs=tuple(to_output(output) for output in outputs),
    )


def to_output(row: Row[Any]) -> Output:
    """The record in one row of `outputs`."""
    values = dict(row._mapping)
    del values["task_id"]
    rating = values.pop("rating")
    return Output(**values, rating=None if rating is None else _RATING.validate_json(rating))


def to_failure(row: Row[Any]) -> Failure:
    """The record in one row of `failures`."""
    values = dict(row._mapping)
    del values["task_id"]
    return Failure(**values)


def to_cursor(task: Task) -> str:
    """Where a list goes on after this task."""
    return base64.urlsafe_b64encode(f"{task.created_ms}.{task.id}".encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> tuple[int, str]:
    """The creation time and id in a cursor; raises BadRequest for one that was not given."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        created, _, task_id = text.partition(".")
        if not (created.isdecimal() and len(created) <= 15 and task_id):
            raise ValueError
        return int(created), task_id
    except (ValueError, binascii.Error):
        raise BadRequest("this cursor was not given by this service", field="cursor") from None
