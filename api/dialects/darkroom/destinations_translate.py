"""Between the wire types of destinations and the neutral ones; pure, no I/O."""

from __future__ import annotations

from typing import Any

from api.destinations import Destination
from api.dialects.darkroom.destinations_schema import PlaceRequest


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
    )


def to_info(destination: Destination) -> dict[str, Any]:
    """A `DestinationInfo`."""
    return {
        "name": destination.name,
        "url": destination.url,
        "endpoint": destination.endpoint,
        "region": destination.region,
        "access_key_id": destination.access_key_id,
        "public_url": destination.public_url,
    }
