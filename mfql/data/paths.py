"""Where a dataset's files lie: OGBench's and D4RL's by their names in a folder, those of one's own by their row."""

from __future__ import annotations

from pathlib import Path

from mfql.files import there
from mfql.tasks import Task, minari_folder

SPLITS = ("train", "val")


def description_path(folder: str | Path, dataset: str) -> Path:
    """The file that describes a dataset. It is written last: without it the files beside it may not belong together."""
    return Path(folder) / f"{dataset}.json"


def ogbench_paths(folder: str | Path, dataset: str) -> dict[str, Path]:
    """The files of a dataset's training and validation split, by OGBench's names."""
    return {"train": Path(folder) / f"{dataset}.npz", "val": Path(folder) / f"{dataset}-val.npz"}


def d4rl_paths(folder: str | Path, dataset: str) -> dict[str, Path]:
    """The one file of a dataset; D4RL has no validation split."""
    return {"train": Path(folder) / f"{dataset}.hdf5"}


def own_paths(task: Task) -> dict[str, Path]:
    """The files of a task's dataset: `train`, and `val` where `NAME-val.npz` lies beside `NAME.npz`.

    Of Minari's it is the one file that its usual format has, or the folder where there are others or several.
    """
    row = task.registered
    if row is None:
        raise ValueError(f"{task.name} names no dataset of its own")
    if row.data.startswith("minari:"):
        return {"train": _minari_path(minari_folder(row.data) / "data")}
    train = Path(row.data)
    val = train.with_name(f"{train.stem}-val.npz")
    return {"train": train, "val": val} if train.suffix == ".npz" and there(val) else {"train": train}


def _minari_path(folder: Path) -> Path:
    others = {path.name for path in folder.iterdir()} - {"metadata.json"} if folder.is_dir() else set()
    return folder / "main_data.hdf5" if others <= {"main_data.hdf5"} else folder
