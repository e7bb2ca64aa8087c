"""Archives of what one job hands to others beside the files that rules declare, where jobs share no folder.

An archive holds files of the folder that it lies in, and is unpacked where it lies; docs/cluster.md says which there
are. Snakemake would delete a run's own folder with a job that fails, were that declared; of an archive nothing is lost.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

from mfql.documents import MOST_JSON, read_text
from mfql.errors import UserError
from mfql.experiment.find import AGGREGATE, DRAWN, look_for_runs, run_of
from mfql.experiment.owned import link_on_the_way
from mfql.experiment.run import CHECKPOINT, OUTPUTS, RUN, RunFolder
from mfql.files import CannotRead, open_file, reading, write_whole, writing
from mfql.locks import locked

# Of a folder of aggregates: the panels' files, whose names depend on the scores.
PANELS = "panels.tar"
_MANIFEST = "run/manifest.json"
_ANEW = "Remove it, and launch again: the job that makes it packs it anew."


def pack(archive: Path, files: Iterable[Path]) -> None:
    """Write files that lie below the archive's folder into it, whole or not at all; who owns them is not told.

    Raises:
        UserError: a file cannot be read, lies elsewhere, or the archive cannot be written.
    """
    with write_whole(archive, "wb") as whole, tarfile.open(fileobj=whole, mode="w") as tar:
        for path in files:
            _require_below(path, archive.parent)
            with open_file(path) as file, reading(path):
                found = os.fstat(file.fileno())
                member = tarfile.TarInfo(path.relative_to(archive.parent).as_posix())
                member.size, member.mtime = found.st_size, int(found.st_mtime)
                tar.addfile(member, file)


def unpack(archive: Path) -> None:
    """Put in place what an archive holds; files that are there with their size and date are left alone.

    A run of other settings that lies there is moved aside, as the trainer does.

    Raises:
        UserError: it is damaged, or holds what does not belong below its folder; or such a run is in use.
    """
    try:
        with open_file(archive) as whole, tarfile.open(fileobj=whole, mode="r:") as tar:
            if archive.name == RUN:
                _make_way(tar, archive)
            for member in tar:
                _put(tar, member, archive)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{archive} is absent", "Launch again: the job that makes it packs it anew.") from error
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:  # Such as a date beyond all clocks.
        raise UserError(f"{archive} is cut or damaged: {error}", _ANEW) from error


def _make_way(tar: tarfile.TarFile, archive: Path) -> None:
    run = run_of(archive.absolute())
    before = run.manifest() if run is not None else None
    packed = tar.extractfile(_MANIFEST) if _MANIFEST in tar.getnames() else None
    if run is None or before is None or packed is None:
        return
    identity = before.get("identity", "unknown")
    if json.loads(packed.read(MOST_JSON)).get("identity") != identity:
        with locked(run.lock):
            print(f"{run.folder}: the earlier run is kept in {run.move_aside(identity).name}", flush=True)


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> None:
    path = archive.parent / member.name
    content = tar.extractfile(member) if member.isreg() else None
    if content is None or ".." in path.parts or Path(member.name).is_absolute():
        raise UserError(f"{archive} holds {member.name!r}, which is no file below its folder", _ANEW)
    _require_below(path, archive.parent)
    if path.is_file() and (path.stat().st_size, int(path.stat().st_mtime)) == (member.size, member.mtime):
        return
    with write_whole(path, "wb") as file:
        shutil.copyfileobj(content, file)
    with writing(path):
        os.utime(path, (member.mtime, member.mtime))


def _require_below(path: Path, folder: Path) -> None:
    """Refuse what lies elsewhere, or is reached through a link."""
    try:
        link = link_on_the_way(path, folder)
    except ValueError:
        raise UserError(f"{path} does not lie in {folder}, whose files are packed together", _ANEW) from None
    except OSError as error:  # Such as a name that is too long.
        raise CannotRead(path, error) from error
    if link is not None:
        raise UserError(f"{path} is neither packed nor unpacked: {link} is a link", _ANEW)


def pack_run(run: RunFolder) -> None:
    """Pack a finished run, and the state that it ended with, where another stage may start from that."""
    pack(run.folder / RUN, [run.trained / name for name in ("manifest.json", *OUTPUTS)])
    if run.stage != "online":
        pack(run.folder / CHECKPOINT, [run.checkpoints.path(step) for step in run.checkpoints.steps()[-1:]])


def pack_panels(folder: Path) -> None:
    """Pack the panels that `mfql aggregate` drew into a folder."""
    drawn = read_text(folder / DRAWN, "`mfql aggregate` writes it anew.").splitlines()
    pack(folder / PANELS, map(Path, drawn))


def unpack_below(results: Path, study: str) -> None:
    """Put in place what a study's tables and pages are made of: its panels, and of all runs at hand the results."""
    runs = look_for_runs(results).runs if (results / "runs").is_dir() else []
    archives = [results / study / AGGREGATE / PANELS, *(run.folder / RUN for run in runs)]
    for archive in archives:
        if archive.is_file():
            unpack(archive)
