"""What PostgreSQL says when something is wrong, and what that means here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from api.errors import BadRequest, Unavailable

log = structlog.get_logger()

RETRY_SECONDS = 5
# SQLSTATEs that pass: connection, read-only, access, conflict, resources, locks, operator, disk.
_PASSING = ("08", "25", "28", "3D", "40", "53", "55", "57", "58")
AGAIN = ("40001", "40P01", "23505")
_BAD_VALUE = "22"
# How the driver refuses where a connection is being cut and has not been found closed yet.
CUT = asyncpg.InternalClientError
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, CUT, DBAPIError)


@contextmanager
def explaining() -> Iterator[None]:
    """Raise what PostgreSQL and its driver say as Unavailable or BadRequest; the rest as it is."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, asyncpg.PostgresError) as error:
        state = sqlstate_of(error)
        if state.startswith(_BAD_VALUE):
            raise BadRequest("a value cannot be kept: too long, too large or no text") from None
        if state and not state.startswith(_PASSING):
            raise
        raise _unavailable(error) from error
    except (OSError, NoConnectionFree, asyncpg.InterfaceError, CUT) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    # Its kind, and for the log alone: what the database says may name machines and users.
    cause = getattr(error, "orig", None)
    kind = type(getattr(cause, "__cause__", None) or cause or error).__name__
    log.warning("database_away", kind=kind)
    return Unavailable("the database cannot be used now", retry_after_seconds=RETRY_SECONDS)


def reason_of(error: Exception) -> str:
    """What an operator is told."""
    said = str(getattr(error, "orig", None) or error)
    return said.rpartition(">: ")[2] or type(error).__name__


def sqlstate_of(error: Exception) -> str:
    """The SQLSTATE of what the database said, empty where it said nothing."""
    said = getattr(error, "orig", None) or error
    return str(getattr(said, "sqlstate", None) or "")
