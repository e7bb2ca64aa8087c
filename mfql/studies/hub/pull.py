"""`mfql pull`: a run out of a repository, in a folder of results, once it is what its manifest vouches for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open

from mfql.documents import read_object
from mfql.errors import UserError, in_one_line
from mfql.experiment.run import OUTPUTS, RunFolder, alterations
from mfql.files import move, require_file, writing
from mfql.settings import STAGES
from mfql.studies.hub.files import FILES, REQUIRED
from mfql.studies.hub.hub import Listing
from mfql.studies.hub.library import library_of, require_repo
from mfql.studies.hub.runs import read_finished

# What a repository of the Hub has without anybody's asking.
_OF_HUB = (".gitattributes", ".gitignore")


@dataclass(frozen=True)
class Pulled:
    """What came.

    Attributes:
        run: where it lies.
        commit: the hash of the repository's commit; None of a folder's.
        result: what its `evaluation.json` holds.
        left: the repository's other files, which were not asked for.
    """

    run: RunFolder
    commit: str | None
    result: dict[str, Any]
    left: list[str]


def pull(repo: str, out: Path, endpoint: str | None = None, revision: str | None = None) -> Pulled:
    """Bring a run, and keep it if it is what its manifest vouches for; else nothing is left behind.

    Files of other names than those of `mfql.studies.hub.files.FILES` are not asked for. Nothing that comes is run or
    unpickled.

    Args:
        repo: `OWNER/NAME`.
        out: a folder of results, which gets `runs/METHOD/TASK/seedN/STAGE`.
        endpoint: the address of a Hub, or a folder that stands for one; None for the library's own.
        revision: a branch, a tag or a commit; None for the main branch.

    Raises:
        UserError: there is no such repository, a file is absent, too large or not what the manifest or the commit
            says, or such a run lies in `out` already.
    """
    require_repo(repo)
    library = library_of(endpoint)
    listing = library.look(repo, revision)
    names = _wanted(repo, listing)
    with _beside(out) as passing:
        (got := passing / "got").mkdir()
        library.bring(repo, listing, names, got)
        run = _arranged(repo, got, names, passing / "results")
        target = RunFolder(out, run.method, run.task, run.seed, run.stage)
        if os.path.lexists(target.folder):
            raise UserError(f"{target.folder} is there already", "Pull into another folder: --out DIR.")
        result = _checked(repo, run, passing)
        with writing(target.folder):
            target.folder.parent.mkdir(parents=True, exist_ok=True)
            move(run.folder, target.folder)
    left = sorted(in_one_line(name) for name in listing.sizes.keys() - {*names, *_OF_HUB})
    return Pulled(target, listing.commit, result, left)


def _wanted(repo: str, listing: Listing) -> list[str]:
    """The files that are asked for, all of which are there and not too large."""
    if lacking := [name for name in REQUIRED if name not in listing.sizes]:
        raise UserError(f"{repo} lacks {', '.join(lacking)}: it is no run that `mfql push` sent", "Check its name.")
    names = [name for name in FILES if name in listing.sizes]
    for name in names:
        if not 0 <= listing.sizes[name] <= FILES[name].most:
            raise UserError(
                f"{repo}: {name} has {listing.sizes[name]:,} bytes, more than any file of its kind",
                "It is no run that `mfql push` sent.",
            )
    return names


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder that passes, on the file system of `out` where that is there or a folder around it is."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    with writing(out):
        passing = TemporaryDirectory(prefix=".mfql-pull-", dir=place)
    with passing as name:
        yield Path(name)


def _arranged(repo: str, got: Path, names: list[str], results: Path) -> RunFolder:
    """The files at their places in the run's folder, which is that of what the manifest says that it is."""
    for name in names:
        if (got / name).is_symlink():
            raise UserError(f"{repo}: {name} is a link", "It is no run that `mfql push` sent.")
        try:
            require_file(got / name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{repo}: {name} did not come", "The same command tries again.") from error
    with _as_of(repo, got):
        run = _named(repo, read_object(got / "manifest.json"), results)
    for name in names:
        target = run.folder / FILES[name].place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(got / name, target)
    return run


def _named(repo: str, manifest: Mapping[str, Any], results: Path) -> RunFolder:
    """The folder of the run that a manifest says that it is, whose parts are names and no ways elsewhere."""
    method, task, seed, stage = (manifest.get(key) for key in ("method", "task", "seed", "stage"))
    is_named = all(isinstance(name, str) and _is_name(name) for name in (method, task))
    if not is_named or type(seed) is not int or seed < 0 or stage not in STAGES:
        raise UserError(
            f"{repo}: manifest.json names no run: {in_one_line(f'{method}/{task}/seed{seed}/{stage}')[:200]}",
            "It is no run that `mfql push` sent.",
        )
    return RunFolder(results, str(method), str(task), seed, str(stage))


def _is_name(name: str) -> bool:
    return bool(name) and not name.startswith((".", "-")) and "/" not in name and in_one_line(name) == name


def _checked(repo: str, run: RunFolder, passing: Path) -> dict[str, Any]:
    """The result of a run that is finished and what its manifest vouches for; its copy is delivered.

    Raises:
        UserError: it is not; says what is wrong, as of the repository.
    """
    with _as_of(repo, passing):
        finished = read_finished(run)
        known = finished.manifest["outputs"]
        if set(known) != set(OUTPUTS):
            raise UserError(f"manifest.json vouches for {in_one_line(', '.join(sorted(known)))}, no run's files")
        if faults := list(alterations(run, finished.manifest)):
            raise UserError("; ".join(faults))
        weights = run.trained / "policy" / "policy.safetensors"
        if finished.policy.get("weights_sha256") not in (None, known["policy/policy.safetensors"]):
            raise UserError("policy.json describes other weights")
        try:
            with safe_open(weights, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"policy.safetensors is no file of safetensors: {error}") from error
        run.deliver()
    return finished.result


@contextmanager
def _as_of(repo: str, passing: Path) -> Iterator[None]:
    """Say what is wrong with a file that came as of the repository, not of the place where it passes."""
    try:
        yield
    except UserError as error:
        said = str(error).splitlines()[0].replace(f"{passing}/", "")
        raise UserError(
            f"{repo} is refused: {said}",
            "Nothing was kept. Ask whoever keeps the repository, or name an earlier commit: --revision COMMIT.",
        ) from error
