"""A folder in place of a Hub: repositories are folders `OWNER/NAME` in it, without commits."""

from __future__ import annotations

from pathlib import Path

from mfql.errors import UserError
from mfql.files import CannotRead, listed, open_file, whole_folder, writing
from mfql.studies.hub.hub import Listing, Sent

_BLOCK = 1 << 20


class Shelf:
    """A folder that is used as a Hub is.

    Args:
        place: the folder; it must be there.

    Raises:
        UserError: it is not.
    """

    def __init__(self, place: Path) -> None:
        if not place.is_dir():
            raise UserError(
                f"{place} is neither an address nor a folder", "Give https://..., or a folder that is there."
            )
        self.place = place

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.place)

    def send(self, folder: Path, repo: str, message: str, *, private: bool, revision: str | None) -> Sent:
        """Make a new folder of a folder's files, whole or not at all.

        Args:
            folder: has the files, and nothing else.
            repo: `OWNER/NAME`, which must not be there yet: a folder has no history that would keep what was there.
            message: of no use here.
            private, revision: of a Hub alone.

        Raises:
            UserError: it is there, or one of the others is asked for.
        """
        if private or revision is not None:
            asked = "--private" if private else "--revision"
            raise UserError(f"{asked} is of a Hub, and {self.place} is a folder", "Leave it out.")
        target = self._of(repo)
        with whole_folder(target) as made:
            made.mkdir()
            for path in listed(folder):
                _copy(path, made / path.name, path.stat().st_size)
        return Sent(str(target), None)

    def look(self, repo: str, revision: str | None) -> Listing:
        """The files of a repository; links, folders and pipes are none.

        Raises:
            UserError: there is no such repository, or a revision is asked for.
        """
        if revision is not None:
            raise UserError(f"--revision is of a Hub, and {self.place} is a folder", "Leave it out.")
        folder = self._of(repo)
        if not folder.is_dir():
            raise UserError(f"{self.place} has no repository {repo}", "Check its name.")
        files = [path for path in listed(folder) if path.is_file() and not path.is_symlink()]
        return Listing({path.name: path.stat().st_size for path in files}, None)

    def bring(self, repo: str, listing: Listing, names: list[str], folder: Path) -> None:
        """Copy files of a repository.

        Raises:
            UserError: one cannot be read, or became larger since it was listed.
        """
        for name in names:
            _copy(self._of(repo) / name, folder / name, listing.sizes[name])

    def _of(self, repo: str) -> Path:
        return self.place.joinpath(*repo.split("/"))


def _copy(source: Path, target: Path, most: int) -> None:
    """Copy a regular file of so many bytes at most."""
    try:
        with open_file(source) as file, writing(target), open(target, "wb") as copy:
            left = most
            while block := file.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise UserError(f"{source} grows while it is read", "The same command again when it is whole.")
                copy.write(block)
    except FileNotFoundError as error:
        raise CannotRead(source, error) from error
