"""The hub of models: what a repository holds, and why it cannot be had. No torch."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from huggingface_hub import HfApi, RepoFile, constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from inference.errors import HubFailed

NO_SUCH_PLACE = "neither a folder that is there nor an id of the hub, such as owner/name"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its bytes, and what they hash to.

    `digest` is a SHA-256, or, in 40 digits, git's own of a small file.
    """

    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Repository:
    """What the hub lists of one at one commit."""

    name: str
    commit: str
    files: Mapping[str, HubFile]


def look_up(name: str, revision: str | None) -> Repository:
    """Ask the hub what it has; raises HubFailed."""
    api = HfApi()
    try:
        # not by `resolve_revision`, which notes a commit before anything of it is here
        commit = api.model_info(name, revision=revision).sha
        if commit is None:
            raise HubFailed("the hub tells no commit")
        tree = api.list_repo_tree(name, recursive=True, revision=commit)
        files = {
            one.path: HubFile(one.size, one.lfs.sha256 if one.lfs is not None else one.blob_id)
            for one in tree
            if isinstance(one, RepoFile)
        }
    except Exception as error:
        raise HubFailed(f"{name}: {why(error, name, revision) or first_line(error)}") from error
    return Repository(name, commit, files)


def why(error: BaseException, repository: str, revision: str | None = None) -> str:
    """In one line, why the hub did not give a repository's files, and what to do about it.

    Empty where an error comes from something else.
    """
    for one in _chain(error):
        if (reason := _reason(one, repository, revision)) is not None:
            return reason
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, one after the other."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return iter(chain)


def _reason(error: BaseException, repository: str, revision: str | None) -> str | None:
    match error:
        case RepositoryNotFoundError() | DisabledRepoError():
            return _withheld(error, f"{constants.ENDPOINT}/{repository}")
        case RevisionNotFoundError():
            return f"it has no revision {revision or constants.DEFAULT_REVISION!r}"
        case RemoteEntryNotFoundError():
            return f"it has no {error.response.url.path.rpartition('/resolve/')[2]}"
        case OfflineModeIsEnabled():
            return "not all of it is on this machine, and HF_HUB_OFFLINE keeps the hub away"
        case HFValidationError():
            return NO_SUCH_PLACE
        case HfHubHTTPError():
            return f"the hub at {constants.ENDPOINT} answered {error.response.status_code}"
        case OSError(errno=errno.ENOSPC):
            return f"no space is left at {constants.HF_HUB_CACHE}"
    if is_of_the_line(error):
        return f"the hub at {constants.ENDPOINT} cannot be reached: {first_line(error)}"
    return None


def is_of_the_line(error: BaseException) -> bool:
    """Whether the hub could not be reached, or no more: any of its client's errors but answers."""
    return type(error).__module__.startswith("httpx") and not hasattr(error, "response")


def _withheld(error: BaseException, address: str) -> str:
    """Why the hub does not show a repository to who asks."""
    has_token = get_token() is not None
    if isinstance(error, DisabledRepoError):
        return f"the hub has disabled it, see {address}"
    if isinstance(error, GatedRepoError):
        who = "by the account of the token that is set"
        who = who if has_token else "and HF_TOKEN set to a token of the account that did"
        return f"gated: its terms have to be accepted at {address}, {who}"
    token = "the token that is set may not see it" if has_token else "needs HF_TOKEN"
    return f"there is no {address}, or it is private and {token}"


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
