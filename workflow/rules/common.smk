"""What the rules share: the configured runs, and where each file lies."""

import re
import shlex
from functools import cache
from glob import glob
from pathlib import Path

from mfql.data.addresses import is_private
from mfql.experiment.ablation import plan_of
from mfql.experiment.claims import needed_files, read_claims, require_configuration
from mfql.errors import UserError, print_in_any_locale, printing, unknown
from mfql.documents import read_text
from mfql.files import sha256
from mfql.extensions import keep_what_is_read, tables
from mfql.methods import checkpoint_stage, raw_settings
from mfql.plan import tell
from mfql.experiment.configuration import (
    asked_runs,
    check_configuration,
    checksum_file,
    named_packs,
    note_unrun,
    pack_name,
    path_from_here,
)
from mfql.experiment.find import DRAWN, EVIDENCE, canonical_path, files_of, panel_files
from mfql.experiment.run import RunFolder, hash_for_launch
from mfql.operations.ending import SUMMARY, answer_of, failure_of
from mfql.operations.telling import Lines
from mfql.plan.graph import (
    escape_logs,
    failed_jobs,
    graph_of,
    hand_over,
    name_targets,
    tell_in_short,
    when_nothing_is_to_be_done,
)
from mfql.settings import steps_of
from mfql.suites import replayed, suite_of
from mfql.tasks import find_task, known_tasks, registered_tasks, simulation_version
from mfql.experiment.tuning import tuning_runs

# `.venv/bin/snakemake` finds `.venv/bin/mfql` whether or not the environment is activated.
os.environ.update(PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))

# A launch is of the settings as they are when it begins, however many jobs have them.
keep_what_is_read()
# What a launch takes, and its answer, are printed by this process.
print_in_any_locale()
# What Snakemake prints of paths and names, too.
escape_logs()


def for_people(function, *arguments):
    """The function's result; an error that the user can mend ends Snakemake with its message and no traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        sys.exit(f"Error: {error}")


def refuse(error):
    raise error


def in_command(*words):
    """Words of a job's command that are no parameter of it, with a blank before each. Snakemake fills in what stands in braces."""
    return "".join(f" {shlex.quote(str(word))}" for word in words).replace("{", "{{").replace("}", "}}")


# In the package: every command of `mfql` reads a configuration by the same check. The files of a workflow that has this one as a
# module are that workflow's.
config.update(for_people(check_configuration, config, workflow.overwrite_configfiles if IS_MAIN else [], CONFIG))

STUDY = f"results/{config['name']}"
DATA = config["data_dir"]
TASK_TABLE = f"{CONFIG}/tasks.csv"

# What `mfql` is told wherever it looks up tasks, methods or agents, or makes environments: no parameter, since a run depends neither
# on what else is known nor on where the workflow lies.
EXTENSIONS = in_command(*(word for folder in config["extensions"] for word in ("--extension", folder)))
# In the project's folder `mfql` finds it by itself, and the commands of jobs finished there stay as they were.
CONFIG_DIR = "" if CONFIG == "config" else in_command("--config-dir", CONFIG)
# Nor do a run's numbers depend on who gets its log.
TRACKERS = in_command(*(word for name in config["trackers"] for word in ("--track", name)))
# What reports read of the extensions beside the project's own tables.
EXTENSION_TABLES = [os.path.relpath(path) for path in tables()]
# Tasks of one's own; their datasets have their names.
OWN_TASKS = for_people(registered_tasks)


def command_of(target):
    """The command that makes a target as this one does, for readers of what it made."""
    # Of the command line the workflow itself is documented to tell its configuration, and no more.
    files = map(path_from_here, workflow.overwrite_configfiles)
    snakefile = ["--snakefile", in_project("workflow/Snakefile")] if IS_MAIN and not AT_HOME else []
    begin = ["mfql", "run"] if IS_MAIN and IS_PACKAGED else ["snakemake", *snakefile]
    return shlex.join([*begin, target, *(["--configfile", *files] if workflow.overwrite_configfiles else [])])


PACKS = named_packs(config)
WANTED = {stage: for_people(asked_runs, config, CONFIG, stage) for stage in ("offline", "online")}

# Once a launch or dry run, not by each of its jobs.
if IS_MAIN and workflow.is_main_process:
    for_people(note_unrun, [run for runs in WANTED.values() for run in runs])


CONFIGURED_METHODS = {run.method for runs in WANTED.values() for run in runs}

# As runs' folders have it: 007 is no other seed than 7.
SEED = r"(?:0|[1-9]\d*)"


wildcard_constraints:
    method=r"[\w.+=-]+",
    task=r"[\w.-]+",
    stage="offline|pretrain|online",
    dataset=r"[\w.-]+",
    seed=SEED,


# A pattern that nothing matches, where no task shows images.
PIXEL_TASK = (
    "|".join(re.escape(name) for name, task in for_people(known_tasks, CONFIG).items() if task.pixels) or r"(?!)"
)
STATE_TASK = rf"(?!(?:{PIXEL_TASK})/)[\w.-]+"
OTHER_SEEDS = rf"(?!(?:{'|'.join(str(seed) for pack in PACKS for seed in pack)})\b){SEED}"
# What one training job takes, as name, seeds, tasks, and what its seed wildcard stands for: a pack of the configuration's
# seeds, another seed that somebody asks for, or a seed of a pixel task, which are trained alone.
TRAINING_JOBS = [
    *((pack_name(pack), pack, STATE_TASK, SEED) for pack in PACKS),
    ("any_seed", ["{seed}"], STATE_TASK, OTHER_SEEDS),
    ("pixels", ["{seed}"], PIXEL_TASK, SEED),
]


def seeds_of(files):
    """The seeds of runs, from their files' paths."""
    return list(dict.fromkeys(re.search(r"/seed(\d+)/", file).group(1) for file in files))


def run_files(stage, seeds, name="evaluation.json"):
    """A file of the run of each seed; `{method}` and `{task}` stay open."""
    return [f"results/runs/{{method}}/{{task}}/seed{seed}/{stage}/{name}" for seed in seeds]


def dataset_of(wildcards):
    """The checksum file of the dataset that the task is trained on: fetched, or generated as the configuration says."""
    return checksum_file(config, for_people(find_task, wildcards.task, CONFIG).dataset)


def fetch_source():
    """The option of `mfql data fetch` for where the configuration takes datasets from; none for the published address.

    Commands are printed and recorded: an address with credentials is in none, but in a variable that it names.
    """
    source = config["datasets_from"]
    if source is None:
        return ""
    if "://" in source and is_private(source):
        os.environ.update(MFQL_MIRROR=source)
        return in_command("--mirror", "$MFQL_MIRROR")
    return in_command("--mirror" if "://" in source else "--from", source)


def settings_of(seeds):
    """Parameter function: a hash of every setting that changes the numbers of a job's runs, so that a changed one trains anew.

    It does not take `output`: what follows from that is no reason to run.
    """

    def settings(wildcards):
        files = expand(run_files(wildcards.stage, seeds), **dict(wildcards.items()))
        of = wildcards.method, wildcards.task
        runs = [RunFolder(Path("results"), *of, int(seed), wildcards.stage) for seed in seeds_of(files)]
        return for_people(hash_for_launch, runs, CONFIG)

    return settings


def checkpoints_of(seeds):
    """Input function: the runs of the same seeds that an online run starts from; none where it starts from none."""

    def checkpoints(wildcards):
        if wildcards.stage != "online":
            return []
        start = for_people(checkpoint_stage, wildcards.method, wildcards.task, CONFIG)
        return expand(run_files(start, seeds), **dict(wildcards.items())) if start else []

    return checkpoints


# What a job asks for that needs no GPU, or one. An empty model stands against the profile's `gpu_model`, a default of every
# job: the SLURM plugin asks for GPUs wherever a model is named, and for one where nothing else is said. Nor is there a `gpu: 0`:
# Kubernetes' plugin takes a job that has the resource for one that wants a GPU, whatever the number.
NO_GPU, ONE_GPU = {"gpu_model": ""}, {"gpu": 1}


def within_limit(minutes, jobs=1):
    """Minutes cut to the longest that the profile's cluster takes, where as many jobs of a submission follow one another.

    The limit is no `runtime` in `resources`: Snakemake would share that out among all jobs in the queue.
    """
    # What a profile says under `resources` has no documented name in a workflow.
    limit = workflow.global_resources.get("max_runtime").value
    return minutes if limit is None else min(minutes, limit // jobs)


def growing(minutes, group=None, following=1):
    """Minutes of a scheduler, as much again for each retry.

    Args:
        group: that a profile may put the job in; so many of it as a submission has may follow one another.
        following: jobs of the group that do in any case, each with the next one's input.
    """

    def asked(wildcards, attempt):
        # Known when jobs are made, not when rules are read; no documented name tells it.
        together = workflow.group_settings.group_components.get(group, 1)
        return within_limit(attempt * minutes, together * following)

    return asked


def training_minutes(wildcards, attempt):
    """What a scheduler may count on: an hour, and 30 ms a step on a GPU; as much again for each retry."""
    settings = for_people(raw_settings, wildcards.method, wildcards.task, wildcards.stage, CONFIG)
    return within_limit(attempt * (60 + round(steps_of(settings, wildcards.stage) * 0.03 / 60)))


@cache
def wanted(stage, name="evaluation.json"):
    """That file of every configured run of the stage."""
    return list(map(str, files_of(WANTED[stage], Path("results"), name)))


def ablation_files(name):
    """Input function: the result of every run of an ablation."""

    def files(wildcards):
        return [
            path
            for point in for_people(plan_of, name, config, CONFIG)["points"]
            for path in expand(run_files("offline", point["seeds"]), method=point["method"], task=point["task"])
        ]

    return files


def tuning_files(wildcards=None):
    """The result of every point of the grid, for each task that settings are chosen on."""
    runs = for_people(tuning_runs, config["tuning"], CONFIG)
    if not runs:
        tasks = ", ".join(config["tuning"]["tasks"]) or "none"
        sys.exit(f"Error: nothing to tune: tuning: tasks ({tasks}) have published settings.\n  Name others there.")
    return [
        file
        for task, methods in runs.items()
        for file in expand(run_files("offline", config["tuning"]["seeds"]), method=methods, task=task)
    ]


def replays(wildcards):
    """Input function: the replay of each dataset of OGBench and D4RL that the configuration trains on."""
    names = replayed(run.task for runs in WANTED.values() for run in runs)
    if not names:
        sys.exit(
            "Error: nothing to replay: the configuration has no task of OGBench or D4RL.\n"
            "  Name one under offline or online."
        )
    return [f"{STUDY}/replay/{task}.json" for task in names]


def final_scores():
    """The separate evaluation of every configured run's final policy, if the configuration asks for it.

    Where there is no environment, no episode can be played.
    """
    played = [run for runs in WANTED.values() for run in runs if run.task.has_environment]
    return list(map(str, files_of(played, Path("results"), "final.json"))) if config["final_episodes"] else []


def videos():
    """The videos that the configuration asks for."""
    return [f"results/runs/{run}/video.gif" for run in config["videos"]]


def trajectory_panels():
    """The panel of where policies go, of every task in a maze and stage, if the configuration asks for it."""
    asked = {
        (run.task.name, stage): None
        for stage, runs in WANTED.items()
        for run in runs
        if config["trajectories"] and suite_of(run.task.name).in_maze(run.task.name)
    }
    return [f"{STUDY}/trajectories/{task}/{stage}/panel.json" for task, stage in asked]


def trajectory_runs(wildcards):
    """Input function: the results of all that the configuration asks for on a task and stage."""
    return [
        path
        for run in WANTED[wildcards.stage]
        if run.task.name == wildcards.task
        for path in expand(run_files(wildcards.stage, run.seeds), method=run.method, task=wildcards.task)
    ]


def films():
    """All that is written of the runs that the configuration asks to film."""
    return [
        f"results/runs/{run}/{file}" for run in config["videos"] for file in ("video.gif", "strip.png", "video.json")
    ]


def lost_copies(wildcards):
    """Input function: results of the runs that online ones started from, where the copy alone is gone: it costs no training."""
    runs = [run for run in WANTED["online"] if run.start]
    copies = [
        path
        for run in runs
        for seed in run.seeds
        for path in expand(run_files(run.start, [seed]), method=run.method, task=run.task.name)
    ]
    return [path for path in copies if os.path.isfile(f"{os.path.dirname(path)}/run/evaluation.json")]


def lost_panels():
    """The figures by task and stage that `mfql aggregate` drew from these scores and that are gone.

    Which there are depends on the scores: no rule can name them before. They are declared where they are to be made again.
    """
    drawn, runs = Path(STUDY, "aggregate", DRAWN), Path(STUDY, "runs.txt")
    if not (drawn.is_file() and runs.is_file()):
        return []
    listed, asked = (
        for_people(read_text, file, "Remove it: the launch writes it anew.").split("\n")[:-1] for file in (drawn, runs)
    )
    if asked != [*wanted("offline"), *wanted("online")]:
        return []  # Others are drawn now.
    # A list that somebody changed declares nothing elsewhere.
    own = [path for path in listed if Path(path).is_relative_to(drawn.parent) and ".." not in Path(path).parts]
    return [path for path in own if not os.path.isfile(path)]


def ablation_outputs(name, kinds=("svg", "png", "csv", "md", "tex", "json")):
    """The files of an ablation's panels by kind, those of the proxy too where it has one."""
    files = ("figure.svg", "figure.png", "data.csv", "table.csv", "table.md", "table.tex", "panel.json")
    folders = ["", *(["proxy/"] if ABLATIONS[name].proxy else [])]
    found = [f"{STUDY}/ablations/{name}/{folder}{file}" for folder in folders for file in files]
    return [path for path in found if path.endswith(kinds)]


def toy_files(studies, size):
    """All that studies make at a size, and the trainings behind it."""
    panels = [folder for study in studies for folder in TOY_PANELS[study, size]]
    methods = {method for study in studies for method in for_people(read_study, TOY_FILE, study).methods}
    return [
        *expand("{folder}/{file}", folder=panels, file=("panel.json", "figure.svg", "figure.png", "data.csv")),
        *expand(f"{TOY_RUN}{{file}}", size=size, method=sorted(methods), file=TOY_TRAINED),
    ]


def panels_at_hand(wildcards):
    """What toy, ablations and claims have written by now: the page is made anew when that changes, and asks for none."""
    found = [path for path in panel_files(Path(STUDY)) if path.relative_to(STUDY).parts[0] != "trajectories"]
    return [f"{path} {sha256(path)[:16]}" for path in found]


def judged_tables(wildcards):
    """What the claims are judged by; ends Snakemake before anything is trained at another configuration."""
    claims = for_people(read_claims, CONFIG)
    for_people(require_configuration, claims, config["name"])
    return [f"{STUDY}/{file}" for file in needed_files(claims)]


def target_file(name):
    """The file that a target stands for, by the names that runs have; ends Snakemake where it can be none."""
    if not re.search("[./]", name) and not os.path.exists(name):
        for_people(refuse, unknown("target", name, [rule.name for rule in workflow.rules]))
    return for_people(canonical_path, name, CONFIG, CONFIGURED_METHODS)


def announce():
    """Print what this launch is about to run and takes on this machine, and stop where that is years."""
    # How many jobs the queue holds, and whether there is one, has no documented name.
    nodes = workflow.resource_settings.nodes if workflow.non_local_exec else None
    with printing():
        refused = for_people(tell, graph_of(workflow, config, CONFIG, nodes))
    if refused:
        sys.exit("Nothing was started.")


def conclude():
    """Print what this launch has found."""
    with printing():
        print(for_people(answer_of, graph_of(workflow, config, CONFIG, None)), flush=True)


def explain():
    """Print what of this launch failed, why, and what to do."""
    with printing():
        print(for_people(failure_of, graph_of(workflow, config, CONFIG, None), failed_jobs(workflow)), flush=True)


# `mfql plan` asks for the jobs once Snakemake has found them.
hand_over(workflow, config, CONFIG)
