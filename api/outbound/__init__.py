"""The only way this server connects to an address that a request named."""

from api.outbound.addresses import is_public
from api.outbound.client import Outbound, Reply, Resolver
from api.outbound.targets import Unreachable

__all__ = ["Outbound", "Reply", "Resolver", "Unreachable", "is_public"]
