"""Jobs that share no folder: what they hand on beside the files that rules name, where Snakemake has a default storage provider.

Without one nothing of this changes a rule, and finished studies stay finished.
"""

from mfql.experiment.carried import PANELS
from mfql.experiment.configuration import planned_runs
from mfql.experiment.run import CHECKPOINT, RUN

STORAGE = workflow.storage_settings.default_storage_provider is not None


def placed(path):
    """Where a job finds a file that rules name: where Snakemake puts what it brings from the storage, if there is one."""
    # No documented name tells it.
    return str(workflow.modifier.path_modifier.apply_default_storage(path))


RESULTS = placed("results")
# Parts of commands, empty where folders are shared.
RESULTS_DIR = in_command("--results", RESULTS)
LISTED_BELOW = in_command("--below", os.path.dirname(RESULTS) or ".") if STORAGE else ""
CARRY = " --carry" if STORAGE else ""
UNPACK = "mfql carry unpack {input.carried:q} > {log} 2>&1 && " if STORAGE else ""
# By their folders: the paths of hundreds of runs are more than a command may hold.
UNPACK_ALL = (
    f"mfql carry unpack{RESULTS_DIR}{in_command('--study', config['name'])} > {{log}} 2>&1 && " if STORAGE else ""
)
PACK_DATASET = " && mfql carry dataset {wildcards.dataset} --data {params.folder:q} >> {log} 2>&1" if STORAGE else ""
PACK_PANELS = " && mfql carry panels {params.folder:q} >> {log} 2>&1" if STORAGE else ""


def stored(*paths):
    """These paths where there is a storage, else none."""
    return list(paths) if STORAGE else []


def shipped(paths):
    """What is the project's or the user's own: it comes with the sources, not from the storage."""
    if not STORAGE:
        return paths
    return local(paths) if isinstance(paths, str) else [local(path) for path in paths]


def carried_runs(seeds, names):
    """Archives that training makes of its runs."""
    return stored(*(path for name in names for path in run_files("{stage}", seeds, name)))


def carried_dataset(wildcards):
    """Input function: the archive of the dataset that a task is trained on. One's own lies where its table says."""
    path = dataset_of(wildcards)
    return stored(f"{os.path.splitext(path)[0]}.tar") if find_task(wildcards.task, CONFIG).name not in OWN_TASKS else []


def carried_to_training(seeds):
    """Input function: the archives of the dataset, and of the runs that an online one starts from."""

    def archives(wildcards):
        starts = [os.path.dirname(path) for path in checkpoints_of(seeds)(wildcards)]
        return carried_dataset(wildcards) + stored(
            *(f"{folder}/{name}" for folder in starts for name in (RUN, CHECKPOINT))
        )

    return archives


@cache
def carried_results():
    """The results of all runs that the configuration asks for and of those that online ones start from."""
    planned = for_people(planned_runs, config, CONFIG)
    return stored(
        *(str(path) for name in ("evaluation.json", RUN) for path in files_of(planned, Path("results"), name))
    )


def carried_ablation(name):
    """Input function: the archives of an ablation's runs."""
    return lambda wildcards: stored(*(f"{os.path.dirname(path)}/{RUN}" for path in ablation_files(name)(wildcards)))


def carried_to_page():
    """What a page shows of panels and films beside the files that stand for them."""
    panels = [
        path.replace("panel.json", name)
        for path in trajectory_panels()
        for name in ("figure.svg", "figure.png", "data.csv")
    ]
    return stored(f"{STUDY}/aggregate/{PANELS}", *rules.verdict.output, *panels, *films())
