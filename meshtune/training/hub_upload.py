"""Sends a folder's files to the Hugging Face hub, in one commit. The address and the token are those of its library.

Nothing is public that was not asked to be: a repository is made private, and one that is public already is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from meshtune.data.hub import hushed
from meshtune.errors import InputError, MeshtuneError, last_words


def send(repository: str, files: Mapping[str, Path | bytes], *, public: bool, message: str) -> str:
    """Send files to a model's repository, which is made where it is missing; returns the address of the commit.

    Raises:
        InputError: the repository is public, and that was not asked for.
        MeshtuneError: the hub cannot be reached, or refuses.
    """
    api = HfApi()
    try:
        with hushed():
            there = _visibility(api, repository)
            if there == "public" and not public:
                what = "is public already, and files are sent to private ones unless `--public` is given"
                raise InputError(f"the repository `{repository}` {what}: give it, or name another repository")
            if there is None:
                api.create_repo(repository, private=not public, exist_ok=True)
            operations = [CommitOperationAdd(name, file) for name, file in files.items()]
            return str(api.create_commit(repository, operations, commit_message=message).commit_url)
    except LocalTokenNotFoundError as error:
        raise MeshtuneError(f"{repository}: not logged in: `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        why = ": log in with `hf auth login`, as somebody who may write there" if status in (401, 403) else ""
        raise MeshtuneError(f"{repository}: the hub refuses it ({last_words(error)}){why}") from error
    except Exception as error:  # the library's client has its own errors of a network, which change with versions
        if isinstance(error, MeshtuneError):
            raise
        raise MeshtuneError(f"{repository}: nothing was sent: {last_words(error)}") from error


def _visibility(api: Any, repository: str) -> str | None:
    """`private`, `public`, or None where there is none, or none that we may see."""
    try:
        return "private" if api.model_info(repository).private else "public"
    except RepositoryNotFoundError:
        return None
