"""Who may use which route: API keys all of them, a token of one task two of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from api.accounts import Caller
from api.dialects.base import DeskOf
from api.dialects.callers import caller_of, key_in
from api.dialects.mynth.translate import ID
from api.errors import Unauthorized
from api.tokens import NoToken, is_token

TaskId = Annotated[str, Path(pattern=f"^{ID}$")]


async def no_token(request: Request) -> None:
    """Refuse tokens, whether or not the server asks for keys; raises Unauthorized."""
    if is_token(key_in(request)):
        raise Unauthorized("a token is good for its task's status and result; send an API key")


async def reader_of(task_id: TaskId, request: Request, desk: DeskOf) -> Caller:
    """Who polls: by the token of this very task, or by a key; raises Unauthorized."""
    text = key_in(request)
    if text is not None and is_token(text):
        grant = desk.tokens.grant_of(text, task_id)
        if grant.key_id is not None and not await desk.accounts.is_good(grant.key_id):
            raise NoToken
        return Caller(grant.account)
    return await caller_of(request, desk)


ReaderOf = Annotated[Caller, Depends(reader_of)]
