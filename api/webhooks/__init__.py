"""Telling receivers of tasks that ended: signed, and until one answers well."""

from api.webhooks.courier import Courier
from api.webhooks.letters import (
    STANDARD_RETRY_SECONDS,
    STANDARD_TIMEOUT_SECONDS,
    Event,
    Letter,
    WebhookStyle,
    standard_headers,
    timestamped_signature,
)

__all__ = [
    "STANDARD_RETRY_SECONDS",
    "STANDARD_TIMEOUT_SECONDS",
    "Courier",
    "Event",
    "Letter",
    "WebhookStyle",
    "standard_headers",
    "timestamped_signature",
]
