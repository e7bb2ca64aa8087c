"""The Hugging Face Hub, or a server that speaks as it does, by its own client library."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfql import __version__
from mfql.data.addresses import shown
from mfql.errors import UserError, in_one_line, install
from mfql.studies.hub.files import EXPORTED, FILES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Files of a repository that are looked at: nobody's run has more beside it.
_MOST_FILES = 10_000
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN; the token needs the right to read, and to push that to write."


@dataclass(frozen=True)
class Sent:
    """Where a run lies now.

    Attributes:
        where: the address of what was written, or its folder.
        commit: the commit's hash; None of a folder, which has no commits.
    """

    where: str
    commit: str | None


@dataclass(frozen=True)
class Listing:
    """What a repository holds.

    Attributes:
        sizes: bytes of each file by its name.
        commit: as of `Sent`.
    """

    sizes: dict[str, int]
    commit: str | None


class Hub:
    """An end point that speaks the Hub's protocol.

    Args:
        address: such as `https://huggingface.co`; None for the library's own, which HF_ENDPOINT names.
    """

    def __init__(self, address: str | None = None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, logging

        # What goes wrong is said once, by us; what is under way is of interest on a terminal alone.
        logging.set_verbosity(logging.CRITICAL)
        if not sys.stderr.isatty():
            disable_progress_bars()
        self.api: HfApi = HfApi(endpoint=address, library_name="mfql", library_version=__version__)

    @property
    def name(self) -> str:
        """Its address without credentials."""
        return shown(self.api.endpoint)

    def send(self, folder: Path, repo: str, message: str, *, private: bool, revision: str | None) -> Sent:
        """Make a commit of a folder's files, in which a run's files of an earlier one are no more.

        Args:
            folder: has the files, and nothing else.
            repo: `OWNER/NAME`; made if it is not there.
            message: the commit's.
            private: whether nobody else may see the repository.
            revision: a branch, made if it is not there; None for the main one.

        Raises:
            UserError: it is refused or cannot be reached, or the repository is there and everybody may see it.
        """
        with self._spoken_with(repo, revision):
            repo = self.api.create_repo(repo, private=private or None, exist_ok=True).repo_id
            if private and not self.api.model_info(repo).private:
                raise UserError(
                    f"{repo} is there, and everybody may see it: --private is of new repositories",
                    "Make it private on its page, or name another.",
                )
            if revision is not None:
                self.api.create_branch(repo, branch=revision, exist_ok=True)
            commit = self.api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                revision=revision,
                commit_message=message,
                allow_patterns=sorted(path.name for path in folder.iterdir()),
                delete_patterns=[*FILES, *EXPORTED],
            )
        return Sent(shown(str(commit.commit_url)), in_one_line(str(commit.oid)))

    def look(self, repo: str, revision: str | None) -> Listing:
        """The files of a repository at a commit.

        Args:
            revision: a branch, a tag or a commit; None for the main branch.

        Raises:
            UserError: it cannot be reached, is not there or not for whoever asks, or the answer is none of the Hub's.
        """
        from huggingface_hub.hf_api import RepoFile

        with self._spoken_with(repo, revision):
            commit = str(self.api.model_info(repo, revision=revision).sha)
            # The library makes paths of it.
            if not _COMMIT.fullmatch(commit):
                raise ValueError(f"{commit!r} is no commit's hash")
            entries = list(islice(self.api.list_repo_tree(repo, revision=commit, recursive=True), _MOST_FILES + 1))
            if len(entries) > _MOST_FILES:
                raise UserError(
                    f"{repo} has more than {_MOST_FILES:,} files: it is no run's", "Name another repository."
                )
        return Listing({entry.path: int(entry.size) for entry in entries if isinstance(entry, RepoFile)}, commit)

    def bring(self, repo: str, listing: Listing, names: list[str], folder: Path) -> None:
        """Bring files of a repository, each as the commit has it.

        Args:
            listing: of the repository.
            names: of the files.
            folder: gets them, and what the library notes beside them.

        Raises:
            UserError: as of `look`, or a file came otherwise than the commit has it.
        """
        from huggingface_hub import snapshot_download

        with self._spoken_with(repo, listing.commit):
            snapshot_download(
                repo,
                revision=listing.commit,
                endpoint=self.api.endpoint,
                local_dir=folder,
                cache_dir=folder / ".cache" / "hub",
                allow_patterns=names,
                tqdm_class=_bounded(sum(listing.sizes[name] for name in names)),
                library_name="mfql",
                library_version=__version__,
            )
            found = self.api.verify_repo_checksums(repo, revision=listing.commit, local_dir=folder)
        altered = sorted(one["path"] for one in found.mismatches if one["path"] in names)
        if altered:
            raise UserError(
                f"{repo}: {', '.join(altered)} did not come as commit {listing.commit} has {_it(altered)}",
                "Nothing was kept: the same command tries again.",
            )

    @contextmanager
    def _spoken_with(self, repo: str, revision: str | None) -> Iterator[None]:
        """Say what the library's errors mean, without what they may tell of tokens.

        Raises:
            UserError: in place of any of them.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # The library's own, its HTTP client's, and what odd answers make of its code.
            raise self._meant_by(error, repo, revision) from error

    def _meant_by(self, error: Exception, repo: str, revision: str | None) -> UserError:
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            HTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        chain = list(_chain(error))
        for one in chain:
            if isinstance(one, UserError):
                return one
            if isinstance(one, HFValidationError):
                return UserError(
                    f"{self._said(one)}", "A repository is OWNER/NAME, of letters, digits and -_. in each."
                )
            if isinstance(one, OfflineModeIsEnabled):
                return UserError(f"{self.name} is not asked: HF_HUB_OFFLINE is set", "Unset it.")
            if isinstance(one, RevisionNotFoundError):
                return UserError(f"{repo} at {self.name} has no revision {revision}", "Name a branch, tag or commit.")
            if isinstance(one, RepositoryNotFoundError) or _status(one) == 404:
                return UserError(
                    f"{self.name} has no repository {repo}, or none for whoever asks",
                    f"Check its name. {_LOG_IN}",
                )
            if _status(one) in (401, 403):
                return UserError(f"{self.name} refuses access to {repo} ({_status(one)}): {self._said(one)}", _LOG_IN)
            if isinstance(one, HfHubHTTPError):
                return UserError(
                    f"{self.name} answers {_status(one)}: {self._said(one)}",
                    "Nothing was left half-done here: the same command again when it answers.",
                )
        reached = next((one for one in chain if isinstance(one, HTTPError)), None)
        if reached is not None:
            return UserError(
                f"{self.name} cannot be reached: {self._said(reached)}",
                "Check the network and the address; HF_ENDPOINT or --endpoint names another.",
            )
        return UserError(
            f"{self.name} and {repo}: {type(error).__name__}: {self._said(error)}",
            "Nothing was kept: the same command tries again. Check that the address is of a Hub"
            f" ({install('hub')} installs its client anew).",
        )

    def _said(self, error: BaseException) -> str:
        """An error's words in a line, without addresses' credentials and without the token."""
        words = getattr(error, "server_message", None) or str(error)
        if token := _token():
            words = words.replace(token, "...")
        said = shown(" ".join(words.split()))
        return said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]}..."


_MOST_SAID = 300  # Characters of a server's words that are shown.


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from: the library wraps what the network said."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _bounded(most: int) -> type[Any]:
    """The library's bar of bytes, which ends a download of more than were announced: nothing else of it counts them."""
    from huggingface_hub.utils import tqdm

    class Bounded(tqdm):
        counted = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.counted += int(n or 0)
            if self.counted > most + _SPARE:
                raise UserError(
                    f"more than the {most:,} bytes come that the repository announced",
                    "Nothing was kept. Ask whoever keeps the repository.",
                )
            return super().update(n)

    return Bounded


_SPARE = 1 << 20


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"
