"""Every kind of file that the project reads, where a healthy one lies, and the commands that read it.

docs/faults.md shows this list, and a test holds the two together.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.support.fuzz.judge import Command
from tests.support.training_runs import MINIATURE, ROOT, TASK

# Of each kind.
CASES = 200
# What lies in the places and no kind has: code, what nobody reads but people, and copies under other names.
UNREAD = (
    "*.png", "*.svg", "*.tex", "*.md", "*.rst", "*.smk", "Snakefile", "events.out.tfevents.*", "collect.py", "use.py",
    "pendulum.npz", "visual-*.json", "long.yaml", "next.yaml", "other.yaml", "tiny.yaml",
    "episodes_stats.jsonl", "stats.json", "tasks.jsonl", "tasks.parquet", "namespace_metadata.json", "others.csv",
    "targets.txt", "eight.yaml", "miniature.yaml", "cartpole.py",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        name: by which `--kind` asks for it.
        what: for people.
        place: of `mfql`'s healthy files, see `tests/support/fuzz/places.py`.
        files: patterns in the place; a case takes one of the files.
        form: see `tests/support/fuzz/mutations.py`.
        commands: that read it.
        keys: of a document, the entries that a hash vouches for; without any it vouches for the whole file.
        begun: a hash vouches for the file's beginning, and what follows is cut off, as of a run that was killed.
    """

    name: str
    what: str
    place: str
    files: tuple[str, ...]
    form: str
    commands: tuple[Command, ...]
    keys: tuple[str, ...] = ()
    begun: bool = False


_CONFIG = "--config-dir config"
_RUN, _ONLINE = f"results/runs/small/{TASK}/seed0/offline", f"results/runs/small/{TASK}/seed0/online"
_NEXT = f"results/runs/next/{TASK}/seed0"
_IDENTITY = (
    "identity",
    "agent",
    "training_version",
    "seed",
    "settings",
    "dataset/sha256",
    "starts_from/identity",
    "outputs",
)
# What a training that was finished before takes of a run: its result, not its policy.
_RESTORED = (*_IDENTITY[:-1], "outputs/evaluation.json")
_ANY_RUN = f"results/runs/*/{TASK}/seed[01]/*"
_VERIFY = (0, 1, 2)
# The least that each command is called with in the place `study`.
_STATUS = Command(f"status {_CONFIG} --configfile study.yaml")
_STATUS_ALL = Command("status --all")
_VERIFIED = Command(f"verify {_CONFIG}", exits=_VERIFY, vouched=True)
_LOOKED = Command(f"verify {_CONFIG}", exits=_VERIFY)
_CLEANED = Command(f"clean {_CONFIG} --list --yes")
_SCORED = Command("scores --from-file runs.txt --out out/scores.csv")
_EVALUATE = f"evaluate {_RUN} --episodes 1 --out out/found.json --workers 0 --no-progress"


def _train(method: str, stage: str, **more: object) -> Command:
    words = (
        f"train --method {method} --task {TASK} --stage {stage} --seeds 0 {_CONFIG} --device cpu --threads 1"
        " --workers 0 --no-progress --allow-cpu --compile off"
    )
    return Command(words, exits=(0, 2, 75), writes=("results/runs/*",), **more)  # type: ignore[arg-type]


def _result(method: str, stage: str) -> tuple[str, ...]:
    run = f"results/runs/{method}/{TASK}/seed0/{stage}"
    return f"{run}/evaluation.json", f"{run}/run/policy/policy.safetensors"


_QUICKSTART = "results/quickstart"
_AGGREGATE = Command(f"aggregate {_QUICKSTART}/scores.csv --out out/aggregate", every=10)
_VERDICT = (
    f"verdict --scores {_QUICKSTART}/scores.csv --published published --tasks config/tasks.csv --results results"
    " --out out/verdict"
)
_REPORT = (
    f"report --scores {_QUICKSTART}/scores.csv --aggregates {_QUICKSTART}/aggregate --results results {_CONFIG}"
    f" --verdict {_QUICKSTART}/verdict/verdict.csv --tasks config/tasks.csv --panels {_QUICKSTART}"
    " --expected expected.yaml --targets targets.txt --out out/report.html"
)
_SUMMARY = f"summary --aggregates {_QUICKSTART}/aggregate --report report.html --expected expected.yaml"
_JUDGE = Command(f"claims judge results/reduced {_CONFIG} --out out/claims")
_TOY = Command("toy panels all --size tiny --config toy.yaml --runs runs --out out/panels --command snakemake")
_DRAWN = Command(
    "ablation draw results/miniature/ablations/bound_loss/plan.json --results results --out out/panel --threads 1"
)
_EXTENSION = "--extension mylab"
_PULL = Command("pull lab/small --endpoint shelf --out out/pulled", vouched=True)
# Snakemake's own errors end with 1.
_PLANNED = Command(
    "plan --configfile study.yaml --workflow-profile profiles/default --speed speed.json --allow-cpu",
    every=10,
    exits=(0, 1, 2),
)


def _describe(task: str, **more: object) -> Command:
    return Command(f"{_EXTENSION} data describe {task} --out out/described {_CONFIG}", **more)  # type: ignore[arg-type]


_LEROBOT = tuple(_describe(f"point-{version}", of=f"mylab/data/{version}/*") for version in ("v2.1", "v3.0"))

KINDS: tuple[Kind, ...] = (
    # --- what people write ---
    Kind(
        "configuration",
        "a configuration",
        "study",
        ("study.yaml",),
        "yaml",
        (
            _STATUS,
            Command(f"clean {_CONFIG} --configfile study.yaml"),
            Command(f"ablation list --configfile study.yaml {_CONFIG}", every=4),
            Command(f"report --partial --configfile study.yaml {_CONFIG}", every=50),
        ),
    ),
    Kind(
        "launched-configuration",
        "a configuration, as a launch reads it",
        "launch",
        ("study.yaml",),
        "yaml",
        (_PLANNED,),
    ),
    Kind(
        "lists-of-a-launch",
        "lists that a launch wrote",
        "launch",
        ("results/*/*.txt", "results/*/*/*.txt"),
        "text",
        (_PLANNED,),
    ),
    Kind("profile", "a profile of Snakemake", "launch", ("profiles/default/config.yaml",), "yaml", (_PLANNED,)),
    Kind(
        "method",
        "a method's file",
        "study",
        ("config/methods/small.yaml",),
        "yaml",
        (
            Command(f"list methods small {_CONFIG}"),
            Command(f"list settings --method small --task {TASK} {_CONFIG}"),
            _STATUS,
            _LOOKED,
            _train("small", "offline", every=20),
        ),
    ),
    Kind(
        "settings-table",
        "a method's table of settings by task",
        "study",
        ("config/baselines/fql.csv",),
        "csv",
        (
            Command(f"list methods fql {_CONFIG}"),
            Command(f"list settings --method fql {_CONFIG}"),
        ),
    ),
    Kind(
        "task-table",
        "a task table",
        "study",
        ("config/tasks.csv",),
        "csv",
        (
            Command(f"list tasks {_CONFIG}"),
            Command(f"list tasks {TASK} {_CONFIG}"),
            _STATUS,
            _LOOKED,
        ),
    ),
    Kind(
        "ablations",
        "the ablations",
        "study",
        ("config/ablations.yaml",),
        "yaml",
        (Command(f"ablation list --configfile study.yaml {_CONFIG}"),),
    ),
    Kind("claims", "the claims", "shipped", ("config/claims.yaml",), "yaml", (_JUDGE,)),
    Kind(
        "toy",
        "a configuration of the toy",
        "toy",
        ("toy.yaml",),
        "yaml",
        (
            _TOY,
            Command("toy train residual --size tiny --config toy.yaml --out out/run --device cpu", every=10),
        ),
    ),
    Kind("expected", "scores to expect", "tables", ("expected.yaml",), "yaml", (Command(_SUMMARY),)),
    Kind(
        "outside-scores",
        "scores from elsewhere",
        "tables",
        ("outside.csv",),
        "csv",
        (Command(f"{_VERDICT} --outside outside.csv"),),
    ),
    Kind("list-of-files", "a list of files", "study", ("runs.txt",), "text", (_SCORED,)),
    Kind(
        "proposal",
        "a proposal of settings",
        "tuning",
        ("proposal.yaml",),
        "yaml",
        (
            Command(f"tune freeze proposal.yaml --dry-run {_CONFIG}"),
            Command(f"tune freeze proposal.yaml {_CONFIG}", writes=("config/*",)),
        ),
    ),
    Kind(
        "search",
        "the storage of a search",
        "search",
        ("search.db",),
        "bytes",
        (Command("'tune search' search.db", writes=("search.db*",)),),
    ),
    Kind(
        "paused",
        "what a search reads of a run that paused",
        "search",
        (f"results/runs/small/{TASK}/seed0/offline/paused-10.json",),
        "json",
        (Command(f"mfql.experiment.records.read_pause results/runs/small/{TASK}/seed0/offline/paused-10.json"),),
    ),
    Kind(
        "own-tasks",
        "an extension's task table",
        "lab",
        ("mylab/tasks.csv",),
        "csv",
        (
            Command(f"{_EXTENSION} list tasks {_CONFIG}"),
            Command(f"{_EXTENSION} list tasks point {_CONFIG}"),
        ),
    ),
    Kind(
        "own-method",
        "an extension's method",
        "lab",
        ("mylab/methods/*.yaml",),
        "yaml",
        (
            Command(f"{_EXTENSION} list methods {_CONFIG}"),
            Command(f"{_EXTENSION} list settings --method rwr --task point {_CONFIG}"),
        ),
    ),
    Kind(
        "own-agent",
        "an extension's agent",
        "lab",
        ("mylab/agents/rwr.py",),
        "text",
        (
            Command(f"{_EXTENSION} list methods {_CONFIG}"),
            Command(f"{_EXTENSION} list settings --method rwr --task point {_CONFIG}"),
        ),
    ),
    Kind("own-environment", "an extension's environment", "lab", ("mylab/point.py",), "text", (_describe("point"),)),
    # --- data ---
    Kind(
        "dataset",
        "a described dataset",
        "study",
        ("data/*.npz",),
        "npz",
        (
            _train("other", "offline", vouched=True),
            Command(f"data describe {TASK} --out data {_CONFIG}", vouched=True),
        ),
    ),
    Kind(
        "received-dataset",
        "a dataset that nobody described",
        "received",
        ("data/*.npz",),
        "npz",
        (Command(f"mfql.suites.load {TASK} data"),),
    ),
    Kind(
        "description",
        "a dataset's description",
        "study",
        ("data/*.json",),
        "json",
        (
            _STATUS,
            _LOOKED,
            _train("other", "offline"),
            Command(f"data describe {TASK} --out data {_CONFIG}", writes=("data/*.json",)),
        ),
    ),
    Kind(
        "own-npz", "an own dataset in OGBench's layout", "lab", ("mylab/data/point.npz",), "npz", (_describe("point"),)
    ),
    Kind(
        "own-hdf5",
        "an own dataset in D4RL's layout",
        "lab",
        ("mylab/data/point.hdf5",),
        "hdf5",
        (_describe("point-hdf5"),),
    ),
    Kind(
        "minari",
        "a Minari dataset in HDF5",
        "lab",
        ("minari/mylab/point-v0/data/main_data.hdf5",),
        "hdf5",
        (_describe("point-minari"),),
    ),
    Kind(
        "minari-metadata",
        "what a Minari dataset says of itself",
        "lab",
        ("minari/mylab/point-v0/data/metadata.json",),
        "json",
        (
            _describe("point-minari"),
            Command(f"{_EXTENSION} list tasks point-minari {_CONFIG}"),
        ),
    ),
    Kind(
        "minari-arrow",
        "a Minari dataset in Arrow's format",
        "lab",
        ("minari/mylab/arrow-v0/data/*/*",),
        "bytes",
        (_describe("point-arrow"),),
    ),
    Kind(
        "lerobot-info",
        "what a dataset in LeRobot's layout says of itself",
        "lab",
        ("mylab/data/v*/meta/info.json",),
        "json",
        _LEROBOT,
    ),
    Kind(
        "lerobot-episodes",
        "the episodes of a dataset in LeRobot's layout 2",
        "lab",
        ("mylab/data/v2.1/meta/episodes.jsonl",),
        "text",
        _LEROBOT,
    ),
    Kind(
        "lerobot",
        "the Parquet files of a dataset in LeRobot's layout",
        "lab",
        ("mylab/data/v*/data/*/*.parquet", "mylab/data/v3.0/meta/episodes/*/*.parquet"),
        "bytes",
        _LEROBOT,
    ),
    Kind(
        "d4rl",
        "a dataset of D4RL",
        "d4rl",
        ("data/*.hdf5",),
        "hdf5",
        (Command("mfql.suites.load antmaze-umaze-v2 data"),),
    ),
    Kind(
        "unpacked-images",
        "images unpacked beside a dataset",
        "pixels",
        ("data/unpacked/*.npy",),
        "npy",
        (
            _PIXELS := Command(
                "mfql.suites.load visual-cube-single-play-singletask-task1-v0 data",
                vouched=True,
                writes=("data/unpacked*",),
            ),
        ),
    ),
    Kind("pixel-dataset", "a dataset of images", "pixels", ("data/*.npz",), "npz", (_PIXELS,)),
    Kind(
        "data-lock",
        "the lock file of datasets",
        "fetch",
        ("datasets.lock.json",),
        "json",
        (
            _FETCH := Command(
                "data fetch pointmaze-medium-navigate-v0 --from source --out data --lock datasets.lock.json",
                writes=("data/*", "datasets.lock.json"),
            ),
        ),
    ),
    Kind(
        "part-of-a-fetch",
        "a file that was fetched in part, and what is known of it",
        "begun-fetch",
        ("data/.*.part", "data/.*.part.json"),
        "bytes",
        (
            Command(
                "'data fetch from a server' pointmaze-medium-navigate-v0 --out data --lock datasets.lock.json",
                writes=("data/*",),
                same=("data/pointmaze-medium-navigate-v0.npz",),
            ),
        ),
    ),
    Kind(
        "source",
        "a published file that is fetched",
        "fetch",
        ("source/*.npz",),
        "npz",
        (Command(_FETCH.words, vouched=True, writes=("data/*", "data")),),
    ),
    Kind(
        "replay",
        "the result of a replay",
        "replays",
        ("replay.json",),
        "json",
        (Command("data replay-table replay.json --out out/replay.csv"),),
    ),
    # --- runs ---
    Kind(
        "manifest",
        "a run's manifest",
        "study",
        (f"{_ANY_RUN}/run/manifest.json",),
        "json",
        (
            _STATUS_ALL,
            _VERIFIED,
            _CLEANED,
            _SCORED,
            _train("small", "offline", of=f"{_RUN}/*", vouched=True, keys=_RESTORED),
            _train("small", "online", of=f"{_ONLINE}/*", vouched=True, keys=_RESTORED),
            Command(_EVALUATE, of=f"{_RUN}/*", every=4),
            Command(f"report --partial --configfile study.yaml {_CONFIG}", every=40),
        ),
        _IDENTITY,
    ),
    Kind(
        "start",
        "the manifest of a run that an online run starts from",
        "interrupted",
        (f"{_NEXT}/offline/run/manifest.json",),
        "json",
        (_train("next", "online", vouched=True),),
        _IDENTITY,
    ),
    Kind(
        "start-checkpoint",
        "the checkpoint that an online run starts from",
        "interrupted",
        (f"{_NEXT}/offline/run/checkpoint/step-*10.pt",),
        "bytes",
        (_train("next", "online", vouched=True),),
    ),
    Kind(
        "run-aside",
        "the manifest of a run that was moved aside",
        "study",
        (f"{_RUN}/run.*/manifest.json",),
        "json",
        (_STATUS_ALL, _LOOKED, _CLEANED),
    ),
    Kind(
        "evaluation",
        "a run's evaluation",
        "study",
        (f"{_ANY_RUN}/run/evaluation.json",),
        "json",
        (
            _STATUS_ALL,
            _VERIFIED,
            _CLEANED,
            _train("small", "offline", of=f"{_RUN}/*", vouched=True, same=_result("small", "offline")),
            _train("small", "online", of=f"{_ONLINE}/*", vouched=True, same=_result("small", "online")),
        ),
    ),
    Kind(
        "delivered-evaluation",
        "the copy of a run's evaluation",
        "study",
        (f"{_ANY_RUN}/evaluation.json",),
        "json",
        (
            _STATUS_ALL,
            _VERIFIED,
            _CLEANED,
            Command(_SCORED.words, vouched=True),
        ),
    ),
    Kind("final-scores", "a separate evaluation", "study", (f"{_RUN}/final.json",), "json", (_SCORED, _LOOKED)),
    Kind(
        "failure",
        "what ended an attempt",
        "study",
        (f"results/runs/other/{TASK}/seed7/offline/failure.json",),
        "json",
        (
            _STATUS_ALL,
            _STATUS,
            _LOOKED,
            _CLEANED,
        ),
    ),
    Kind(
        "log",
        "a trainer's log",
        "study",
        ("logs/offline/other/*/seed8.log",),
        "text",
        (Command(f"status {_CONFIG} --configfile eight.yaml"),),
    ),
    Kind("metrics", "a run's training log", "study", (f"{_ANY_RUN}/run/metrics.csv",), "csv", (_STATUS_ALL, _VERIFIED)),
    Kind(
        "interrupted-manifest",
        "the manifest of an interrupted run",
        "interrupted",
        (f"results/runs/small/{TASK}/seed0/offline/run/manifest.json",),
        "json",
        (
            _STATUS_ALL,
            _LOOKED,
            _CLEANED,
            _train("small", "offline", every=2, same=_result("small", "offline")),
        ),
    ),
    Kind(
        "interrupted-metrics",
        "the training log of an interrupted run",
        "interrupted",
        (f"results/runs/small/{TASK}/seed0/offline/run/metrics.csv",),
        "csv",
        (
            _STATUS_ALL,
            _LOOKED,
            _train("small", "offline", vouched=True, same=_result("small", "offline")),
        ),
        begun=True,
    ),
    Kind(
        "carried",
        "an archive of a run",
        "carried",
        (f"{_RUN}/run.tar",),
        "bytes",
        (Command(f"carry unpack {_RUN}/run.tar", writes=(f"{_RUN}/*",)),),
    ),
    Kind(
        "checkpoint",
        "a checkpoint",
        "interrupted",
        (f"results/runs/small/{TASK}/seed0/offline/run/checkpoint/step-*.pt",),
        "bytes",
        (
            _train("small", "offline", same=_result("small", "offline")),
            _STATUS_ALL,
            _LOOKED,
        ),
    ),
    Kind(
        "tail",
        "a segment of the online replay",
        "interrupted",
        (f"results/runs/long/{TASK}/seed0/online/run/checkpoint/*.pt",),
        "bytes",
        (_train("long", "online", same=_result("long", "online")),),
    ),
    Kind(
        "run-lock",
        "a run's lock",
        "interrupted",
        (f"results/runs/small/{TASK}/seed0/offline/lock",),
        "text",
        (
            _STATUS_ALL,
            _CLEANED,
            _train("small", "offline", every=4, same=_result("small", "offline")),
        ),
    ),
    Kind(
        "weights",
        "a policy's weights",
        "study",
        (f"{_RUN}/run/policy/policy.safetensors",),
        "bytes",
        (
            _VERIFIED,
            Command(_EVALUATE, vouched=True),
            _train("small", "offline", every=10),
        ),
    ),
    Kind(
        "policy",
        "a policy's description",
        "study",
        (f"{_RUN}/run/policy/policy.json",),
        "json",
        (
            _VERIFIED,
            Command(_EVALUATE, vouched=True),
        ),
    ),
    Kind(
        "received-weights",
        "the weights of a policy received without a run",
        "policy",
        ("policy/policy.safetensors",),
        "bytes",
        (Command("mfql.load_policy policy", vouched=True),),
    ),
    Kind(
        "received-policy",
        "the description of such a policy",
        "policy",
        ("policy/policy.json",),
        "json",
        (Command("mfql.load_policy policy"),),
    ),
    Kind(
        "shared-manifest",
        "the manifest of a run in a folder that stands for a Hub",
        "shelf",
        ("shelf/lab/small/manifest.json",),
        "json",
        (_PULL,),
        _IDENTITY,
    ),
    Kind(
        "shared-run",
        "its policy, result and log",
        "shelf",
        tuple(f"shelf/lab/small/{name}" for name in ("policy.*", "evaluation.json", "metrics.csv")),
        "bytes",
        (_PULL,),
    ),
    Kind(
        "released",
        "a checkpoint of the authors' code",
        "released",
        ("params.pkl",),
        "bytes",
        (Command("mfql.agents.flax.load_checkpoint params.pkl"),),
    ),
    Kind(
        "films",
        "film strips",
        "tables",
        (f"results/runs/mfql/{TASK}/seed0/offline/strip.png",),
        "bytes",
        (Command(_REPORT),),
    ),
    # --- tables ---
    Kind(
        "scores",
        "the table of scores",
        "study",
        ("results/study/scores.csv",),
        "csv",
        (
            _VERIFIED,
            Command("ship results/study --out out/shipped"),
        ),
    ),
    Kind(
        "shipped-scores",
        "the table of scores of an earlier shipment",
        "study",
        ("shipped/study/scores.csv",),
        "csv",
        (Command("ship results/study --out shipped", writes=("shipped/*",)),),
    ),
    Kind(
        "shipment",
        "what an earlier shipment wrote",
        "study",
        ("shipped/study/shipped.json",),
        "json",
        (Command("ship results/study --out shipped", writes=("shipped/*",)),),
    ),
    Kind(
        "scores-read",
        "the table of scores that reports read",
        "tables",
        (f"{_QUICKSTART}/scores.csv",),
        "csv",
        (
            Command(_VERDICT),
            _AGGREGATE,
            Command(_REPORT, every=4),
        ),
    ),
    Kind(
        "aggregates",
        "the tables of aggregates",
        "tables",
        (f"{_QUICKSTART}/aggregate/*.csv",),
        "csv",
        (
            Command(_REPORT),
            Command(_SUMMARY),
        ),
    ),
    Kind("verdict", "the tables of verdicts", "tables", (f"{_QUICKSTART}/verdict/*.csv",), "csv", (Command(_REPORT),)),
    Kind(
        "published",
        "published numbers",
        "tables",
        ("published/*.csv", "published/third_party/*.csv"),
        "csv",
        (Command(_VERDICT),),
    ),
    Kind("panel", "a panel's description", "tables", (f"{_QUICKSTART}/*/**/panel.json",), "json", (Command(_REPORT),)),
    Kind(
        "panel-figure",
        "a panel's figure",
        "tables",
        (f"{_QUICKSTART}/*/**/figure.svg",),
        "text",
        (Command(_REPORT),),
    ),
    Kind(
        "panel-table",
        "a panel's tables",
        "tables",
        (f"{_QUICKSTART}/*/**/data.csv", f"{_QUICKSTART}/*/**/table.csv"),
        "csv",
        (Command(_REPORT),),
    ),
    Kind(
        "measured-speed",
        "measured speed of the methods",
        "tables",
        ("measured.json",),
        "json",
        (Command(f"{_REPORT} --speed measured.json"),),
    ),
    Kind(
        "ablation-plan",
        "an ablation's plan",
        "ablation",
        ("results/miniature/ablations/bound_loss/plan.json",),
        "json",
        (_DRAWN,),
    ),
    Kind(
        "ablation-run",
        "the training log that an ablation is drawn from",
        "ablation",
        ("results/runs/*/*/*/*/run/metrics.csv",),
        "csv",
        (_DRAWN,),
    ),
    Kind("toy-run", "a training of the toy", "toy", ("runs/*/*",), "csv", (_TOY,)),
    Kind(
        "claims-table",
        "the tables that claims read",
        "shipped",
        ("results/reduced/claims/parity.csv", "results/reduced/*/*.csv", "results/reduced/*/*/*.csv"),
        "csv",
        (_JUDGE,),
    ),
    Kind(
        "claims-page",
        "the page of the claims",
        "shipped",
        ("claims.md",),
        "text",
        (Command(f"claims page results/reduced --page claims.md {_CONFIG}"),),
    ),
    Kind(
        "fixture",
        "a parity fixture",
        "fixtures",
        ("*.npz",),
        "npz",
        (Command("parity reference.npz", exits=(0, 1, 2)),),
    ),
    Kind(
        "speed",
        "measured speed of a machine",
        "tables",
        ("speed.json",),
        "json",
        (Command("mfql.plan.cost.find_speed speed.json"),),
    ),
)

BY_NAME = {kind.name: kind for kind in KINDS}


def unlisted(places: Path) -> list[str]:
    """The files of places that no kind has, one of each name."""
    found: dict[str, str] = {}
    known = set(UNREAD)
    for place in {kind.place for kind in KINDS}:
        listed = {
            file for kind in KINDS if kind.place == place for one in kind.files for file in (places / place).glob(one)
        }
        known |= {_shape(file) for file in listed}
        found |= {_shape(file): str(file.relative_to(places)) for file in (places / place).rglob("*") if file.is_file()}
    own = {_shape(file) for folder in ("methods", "baselines") for file in (ROOT / "config" / folder).rglob("*")}
    own |= {_shape(file) for file in (ROOT / "config").iterdir()} | {_shape(file) for file in MINIATURE.rglob("*")}
    return sorted(path for name, path in found.items() if not any(fnmatch(name, one) for one in known | own))


def _shape(file: Path) -> str:
    """A file's name but for its numbers."""
    return re.sub(r"\d+", "N", file.name)


def table() -> str:
    """The rows of docs/faults.md."""
    rows = []
    for kind in KINDS:
        count = CASES // min(command.every for command in kind.commands)
        names = dict.fromkeys(f"`{_name(command)}`" for command in kind.commands)
        rows.append(f"| {kind.what} | {count} | {', '.join(names)} |\n")
    return "".join(rows)


def _name(command: Command) -> str:
    """The command's name, without options and arguments."""
    words = shlex.split(command.words.removeprefix("--extension mylab "))
    two = words[0] in ("carry", "data", "toy", "claims", "tune", "ablation", "list")
    return " ".join(words[: 2 if two else 1])
