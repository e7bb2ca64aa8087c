"""Which Hub, or folder in its place, is asked, and what a repository may be called."""

from __future__ import annotations

from pathlib import Path

from mfql.data.addresses import is_address
from mfql.errors import UserError, naming_extras
from mfql.files import expanded
from mfql.studies.hub.folder import Shelf
from mfql.studies.hub.hub import Hub


@naming_extras()
def library_of(endpoint: str | None) -> Hub | Shelf:
    """The Hub at an address, or the folder that stands for one.

    Args:
        endpoint: an address or a folder; None for the client library's own, which HF_ENDPOINT names.

    Raises:
        UserError: it is neither, or `huggingface_hub` is not installed.
    """
    if endpoint is None or is_address(endpoint):
        return Hub(endpoint)
    return Shelf(Path(expanded(endpoint, "--endpoint")))


@naming_extras()
def require_repo(repo: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UserError: says what one is, or `huggingface_hub` is not installed.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        # The client takes a bare name for one of whoever is logged in, which nobody else could pull by it.
        if "/" not in repo:
            raise HFValidationError("it names no owner")
    except HFValidationError as error:
        raise UserError(
            f"{repo!r} is no repository: {error}",
            "A repository is OWNER/NAME, of letters, digits and -_. in each; a folder is given as --endpoint DIR.",
        ) from error
