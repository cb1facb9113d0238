"""An export, uploaded to the Hugging Face Hub; the token is the library's own matter, and never read here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kikimimi.console.terminal import say
from kikimimi.console.words import listing
from kikimimi.errors import RequestError, WriteError
from kikimimi.published.licences import CARD

_ANYBODYS = {".gitattributes", CARD}
"""What a repository may hold that somebody has made on the site for what is to come."""
_MARK = "lock.json"
_LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


def _api() -> Any:
    from huggingface_hub import HfApi

    from kikimimi import __version__

    return HfApi(library_name="kikimimi", library_version=__version__)


def check_push(repository: str, *, private: bool) -> None:
    """Check, before the work, that an export can be uploaded: a name, a token, and nobody else's files.

    Raises:
        RequestError: It cannot.
        WriteError: The Hub does not answer, or refuses.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RequestError(f"--push {repository!r}: {error}") from error
    if repository.count("/") != 1:
        raise RequestError(f"--push {repository!r}: has to be ORG/NAME, with the user or organisation")
    if get_token() is None:
        raise RequestError(f"--push {repository}: there is no token of the Hub: {_LOGIN}")
    with _told(repository, "nothing was written"):
        held = _held(repository)
    if held is not None:
        _check_held(repository, *held, private=private)


def _held(repository: str) -> tuple[set[str], bool] | None:
    """Return what a repository holds, and whether it is private; None where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        about = _api().model_info(repository)
    except RepositoryNotFoundError:
        return None
    return {file.rfilename for file in about.siblings or ()}, bool(about.private)


def _check_held(
    repository: str, names: set[str], is_private: bool, *, private: bool, ours: set[str] | None = None
) -> None:
    other = names - _ANYBODYS
    if private and not is_private:
        raise RequestError(f"--push {repository}: is there and public, so that --private cannot hold")
    if other and (_MARK not in other or (ours is not None and (other := other - ours))):
        raise RequestError(
            f"--push {repository}: is there and holds other files: {listing(sorted(other)[:10])}. Name "
            "another repository, or delete them there"
        )


def push_export(folder: Path, repository: str, *, private: bool) -> str:
    """Upload an export, in one commit; the repository is made where there is none.

    Args:
        folder: The export.
        repository: ``ORG/NAME``.
        private: Whether a repository that is made is private.

    Returns:
        Its address.

    Raises:
        WriteError: The Hub refuses or cannot be reached. The export stays.
    """
    again = f"hf upload {repository} {shlex.quote(str(folder))}{' --private' if private else ''}"
    with _told(repository, f"the export stays in {folder}. Once that is mended: {again}"):
        say(
            f"uploading to {repository}: {_MARK} in it names this machine, its paths and commands", error=True
        )
        if (held := _held(repository)) is not None:
            ours = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            _check_held(repository, *held, private=private, ours=ours)
        _api().create_repo(repository, private=private, exist_ok=True)
        _api().upload_folder(repo_id=repository, folder_path=folder, commit_message="Export of kikimimi")
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


@contextmanager
def _told(repository: str, then: str) -> Iterator[None]:
    """Turn what the Hub refuses into a line for people.

    Raises:
        WriteError: It refuses, or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    # OSError and the HTTP library's own error; which library it is depends on the version of huggingface_hub.
    others: Any = (LocalTokenNotFoundError, RepositoryNotFoundError, *HfHubHTTPError.__bases__)
    try:
        yield
    except (HfHubHTTPError, *others) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401 or isinstance(error, LocalTokenNotFoundError):
            cause = f"the Hub does not know the token: {_LOGIN}"
        elif status in (403, 404):
            cause = f"the token has no right to write to {repository}: make one that has"
        elif status is not None:
            cause = f"the Hub refuses ({status}): {getattr(error, 'server_message', None) or error}"
        else:
            cause = f"the Hub cannot be reached: {type(error).__name__}: {error}"
        raise WriteError(f"--push {repository}: {cause}; {then}") from error
