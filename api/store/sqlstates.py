"""What PostgreSQL says when something is wrong, and what that means here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from api.errors import BadRequest, Unavailable
from api.store.migrate import MigrationError

log = structlog.get_logger()

RETRY_SECONDS = 5
# SQLSTATEs that pass: connection, read-only, access, conflict, resources, locks, operator, disk.
_ACCESS = ("28", "3D")
_PASSING = (*_ACCESS, "08", "25", "40", "53", "55", "57", "58")
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
    log.warning("database_away", kind=type(_cause_of(error)).__name__)
    return Unavailable("the database cannot be used now", retry_after_seconds=RETRY_SECONDS)


def _cause_of(error: Exception) -> BaseException:
    """What the driver raised, whoever has wrapped it since."""
    wrapped = getattr(error, "orig", None)
    return getattr(wrapped, "__cause__", None) or wrapped or error


def unusable(error: Exception) -> Unavailable | MigrationError:
    """Why a start comes to nothing, for an operator: whether it will pass, or is to be mended."""
    state = sqlstate_of(error)
    named = "the PostgreSQL database of DARKROOM_DATABASE_URL"
    # A bad address or certificate, a wrong password, no such database: no second start helps.
    is_wrong = isinstance(_cause_of(error), ValueError) or state.startswith(_ACCESS)
    if is_wrong or (state and not state.startswith(_PASSING)):
        return MigrationError(f"{named}: {_reason_of(error)}")
    return Unavailable(f"{named} cannot be used now: {_reason_of(error)}")


def _reason_of(error: Exception) -> str:
    cause = _cause_of(error)
    return "no answer" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__


def sqlstate_of(error: Exception) -> str:
    """The SQLSTATE of what the database said, empty where it said nothing."""
    said = getattr(error, "orig", None) or error
    return str(getattr(said, "sqlstate", None) or "")
