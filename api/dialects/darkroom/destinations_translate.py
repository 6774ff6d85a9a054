"""Between the wire types of destinations and the neutral ones; pure, no I/O."""

from __future__ import annotations

from typing import Any

from api.destinations import Destination
from api.dialects.darkroom.destinations_schema import PlaceRequest
from api.dialects.darkroom.translate import to_time


def to_destination(account: str, name: str, wire: PlaceRequest) -> Destination:
    """What is to be kept under that name of the account."""
    return Destination(
        account=account,
        name=name,
        url=wire.url,
        endpoint=wire.endpoint,
        region=wire.region,
        access_key_id=wire.access_key_id,
        secret=wire.secret_access_key.get_secret_value(),
        public_url=wire.public_url,
        path_template=wire.path_template,
        url_template=wire.url_template,
        provider=wire.provider,
    )


def to_info(destination: Destination) -> dict[str, Any]:
    """A `DestinationInfo`."""
    return {
        "id": destination.id,
        "name": destination.name,
        "url": destination.url,
        "endpoint": destination.endpoint,
        "region": destination.region,
        "access_key_id": destination.access_key_id,
        "public_url": destination.public_url,
        "path_template": destination.path_template,
        "url_template": destination.url_template,
        "provider": destination.provider,
        "created_at": to_time(destination.created_ms),
        "updated_at": to_time(destination.updated_ms),
    }
