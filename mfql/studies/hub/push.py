"""`mfql push`: a finished run, its policy first, in a repository of the Hub or in a folder that stands for one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mfql.documents import read_object
from mfql.errors import UserError, in_one_line, warn
from mfql.experiment.find import name_of
from mfql.files import open_file, there, write_whole, writing
from mfql.operations.verify import Kind, verify
from mfql.report.places import copy_given
from mfql.studies.hub.card import card_of
from mfql.studies.hub.files import CARD, EXPORTED, FILES
from mfql.studies.hub.hub import Sent
from mfql.studies.hub.library import library_of, require_repo
from mfql.studies.hub.runs import Finished, finished_run


@dataclass(frozen=True)
class Asked:
    """What is asked of a push.

    Args:
        repo: `OWNER/NAME`.
        endpoint: the address of a Hub, or a folder that stands for one; None for the library's own.
        private: whether nobody else may see a new repository.
        revision: a branch; None for the main one.
        licence: of the policy, as the Hub names licences.
    """

    repo: str
    endpoint: str | None = None
    private: bool = False
    revision: str | None = None
    licence: str | None = None


@contextmanager
def prepared(path: Path, asked: Asked, config_dir: Path, data: Path) -> Iterator[Path]:
    """A folder with the files that a push sends, as long as the block lasts.

    Args:
        path: of the run.
        config_dir, data: as of `mfql verify`.

    Raises:
        UserError: the run is not finished, diverged or none that `mfql verify` finds nothing wrong with, or a file of
            it names a folder of this machine.
    """
    require_repo(asked.repo)
    finished = finished_run(path)
    _require_verified(finished, config_dir, data)
    with TemporaryDirectory(prefix="mfql-push-") as made:
        folder = Path(made)
        with writing(folder):
            for name, shared in FILES.items():
                if name != CARD:
                    copy_given(finished.run.folder / shared.place, folder / name)
            for file in _exported(finished):
                copy_given(file, folder / file.name)
        with write_whole(folder / CARD) as card:
            card.write(card_of(finished, asked.licence, asked.repo))
        yield folder


def push(folder: Path, asked: Asked) -> Sent:
    """Send what was prepared.

    Args:
        folder: of `prepared`.

    Raises:
        UserError: it is refused or cannot be reached.
    """
    library, manifest = library_of(asked.endpoint), read_object(folder / "manifest.json")
    message = in_one_line("{method}, {task}, seed {seed}, {stage}: run {identity}".format(**manifest))
    return library.send(folder, asked.repo, message, private=asked.private, revision=asked.revision)


def _require_verified(finished: Finished, config_dir: Path, data: Path) -> None:
    found = verify(finished.run.folder, config_dir, data).findings
    if found:
        said = "; ".join(f"{one.kind}: {one.what}" for one in found)
        remedy = "Mend what `mfql verify` finds, or train the run anew."
        if all(one.kind is Kind.UNKNOWN for one in found):
            remedy = "Name the extension that it is of: mfql --extension DIR push ...; or mend the file that is named."
        raise UserError(f"{name_of(finished.run)} is not pushed: {said}", remedy)


def _exported(finished: Finished) -> list[Path]:
    """Files that `mfql export` wrote of this very policy, in the run's folder or beside the policy.

    Each says in plain characters which weights it was made of; one of an earlier policy is named and left.
    """
    digest = finished.manifest["outputs"]["policy/policy.safetensors"].encode()
    places = (finished.run.folder, finished.run.trained / "policy")
    found = {name: place / name for name in EXPORTED for place in places if there(place / name)}
    files = list(found.values())
    of_this = [path for path in files if _holds(path, digest)]
    for path in files:
        if path not in of_this:
            warn(f"{path} is not sent: it does not say that it is of this policy", "Write it anew with `mfql export`.")
    return of_this


def _holds(path: Path, said: bytes) -> bool:
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(said) >= 0
