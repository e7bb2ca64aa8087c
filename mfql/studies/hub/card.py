"""A model card of a finished run: Markdown with the metadata of the Hugging Face Hub, from what the run says of itself.

What stands in the run's files may be anybody's: it is shown as code, in which Markdown makes no markup, link or
element.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from mfql.data.terms import terms_of
from mfql.errors import UserError, in_one_line, install, naming_extras
from mfql.evaluation.interval import wilson
from mfql.experiment.records import if_there, read_final
from mfql.extensions import agent_code, agent_file
from mfql.report.places import without_machine
from mfql.studies.hub.runs import Finished
from mfql.suites import suite_of
from mfql.suites.own import Own
from mfql.tasks import ESTIMATE, scored

_PAPER = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_METRICS = {
    "success": ("success_rate", "success rate in percent of episodes"),
    "normalized_return": ("normalized_return", "normalised return: 0 is a random policy's, 100 an expert's"),
    "return": ("mean_reward", "mean return of an episode"),
    ESTIMATE: (ESTIMATE, "discounted return as fitted Q evaluation estimates it; no episode was played"),
}
# Where the software is described for those who cite it; a card is written where no file of the project may be at hand.
_SOFTWARE = "MFQL: a pipeline to reproduce, check and extend one-step MeanFlow Q-learning"


@naming_extras()
def card_of(finished: Finished, licence: str | None = None, repo: str | None = None) -> str:
    """The card.

    Args:
        finished: the run.
        licence: of the policy, as the Hub names licences, such as `mit`; None leaves it out.
        repo: where the Hub will have the run, `OWNER/NAME`; None where that is not known.

    Raises:
        UserError: `huggingface_hub` is not installed, or an evaluation beside the run cannot be read.
    """
    from huggingface_hub import ModelCard

    told = _Told(finished)
    body = "\n\n".join(
        [
            told.what(),
            _section("Score", told.score()),
            _section("Training", told.training()),
            _section("Data", told.data()),
            _section("Environment", told.environment()),
            _section("Machine and time", told.machine()),
            _section("Limits of use", told.limits()),
            _section("Use", told.use(repo)),
            _section("Check", told.check(repo)),
            _section("Cite", told.cite()),
        ]
    )
    # As a whole text: the library's own reading of it is the check that the Hub's will succeed.
    return str(ModelCard(f"---\n{told.metadata(licence, repo)}\n---\n\n{body}\n"))


class _Told:
    """What a card tells of a run, by sections."""

    def __init__(self, finished: Finished) -> None:
        self.run, self.result, self.policy = finished.run, finished.result, without_machine(finished.policy)
        self.manifest: dict[str, Any] = without_machine(finished.manifest)
        # Of a task without an environment: the episodes of its score are recorded ones, whose starts are valued.
        self.estimated = self.result["metric"] == ESTIMATE
        self.final = self._final()
        self.used: dict[str, Any] = self.policy.get("environment", {})
        self.suite = self.used.get("suite") or suite_of(self.run.task).name
        # Of no suite: nothing is known of its task but what the run recorded.
        self.own = self.estimated or self.suite == Own.name
        dataset = self.manifest["dataset"]
        self.terms = terms_of(self.suite, dataset.get("source", "unknown"))
        self.about, self.papers = _of_agent(self.manifest["agent"])

    def _final(self) -> dict[str, Any] | None:
        """The separate evaluation of this very policy, if it was made."""
        found = if_there(read_final, self.run.folder / "final.json")
        is_own = found is not None and found["identity"] == self.result["identity"]
        return found if is_own and found is not None and found.get(self.result["metric"]) is not None else None

    def metadata(self, licence: str | None, repo: str | None) -> str:
        """The Hub's YAML, between the two lines of `---`."""
        from huggingface_hub import EvalResult, ModelCardData

        kind, name = _METRICS[self.result["metric"]][0], self._metric()
        values = [(value, f"{name}; {said}") for said, value, _ in self._own_scores()]
        if self.estimated:
            values = [(self.result["score"], f"{name}; starts of {self._counted()[1]} held-out episodes")]
        results = [
            EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement learning",
                dataset_type=in_one_line(self.run.task),
                dataset_name=in_one_line(self.run.task),
                metric_type=kind,
                metric_name=said,
                metric_value=round(float(value), 4),
            )
            for value, said in values
            if value is not None
        ]
        papers = [f"arxiv:{paper}" for paper in self.papers]
        data = ModelCardData(
            library_name="mfql",
            license=licence,
            pipeline_tag="reinforcement-learning",
            tags=[in_one_line(tag) for tag in (*self._tags(), *papers)],
            # One's own has the task's name, under which the Hub may have somebody else's.
            datasets=None if self.own else [in_one_line(self.manifest["dataset"]["name"])],
            model_name=repo.rpartition("/")[2] if repo else in_one_line(f"{self.run.method} {self.run.task}"),
            eval_results=results or None,
        )
        return data.to_yaml()

    def _tags(self) -> Iterable[str]:
        phase = "online-reinforcement-learning" if self.run.stage == "online" else "offline-reinforcement-learning"
        suite = [] if self.estimated else [self.suite]
        return dict.fromkeys(["reinforcement-learning", phase, self.manifest["agent"], *suite, self.run.task])

    def what(self) -> str:
        """The heading, and what the policy is."""
        kind = f"{_code(self.manifest['agent'])} ({self.about or 'of an extension of MFQL'})"
        simulated = "" if self.own else "simulated "
        return (
            f"# {_code(self.run.method)} on {_code(self.run.task)}\n\n"
            f"A policy for the {simulated}task {_code(self.run.task)}, trained {self._how()} by the method "
            f"{_code(self.run.method)}, whose agent is {kind}. It is one seed's, number {self.run.seed}, and was"
            " trained by [MFQL](#cite); the numbers below are those that the run recorded of itself."
        )

    def _how(self) -> str:
        if self.run.stage != "online":
            return "offline, from a dataset alone,"
        start = self.manifest["starts_from"]
        return "offline and then online," if start else "online, beside a dataset,"

    def _metric(self) -> str:
        """What the score is, with the returns that stand for 0 and 100 where the task's row says them."""
        low, high = (self.used.get(name) for name in ("score_low", "score_high"))
        if self.result["metric"] == "normalized_return" and low is not None and high is not None:
            return f"normalised return: 0 stands for a return of {low:g}, 100 for {high:g}"
        return _METRICS[self.result["metric"]][1]

    def _counted(self) -> tuple[list[Mapping[str, Any]], int]:
        """The evaluations that the score is the mean of, and their episodes."""
        counted = list(scored(self.result["evaluations"], self.result["score_rule"]))
        return counted, sum(evaluation["episodes"] for evaluation in counted)

    def _own_scores(self) -> list[tuple[str, float | None, int]]:
        """What this very policy scored: by which evaluation, how much, and in how many episodes.

        Evaluations before the last are of the policies of those steps, which the run did not keep.
        """
        metric, last = self.result["metric"], self.result["evaluations"][-1:]
        found = [("separate evaluation", self.final)] if self.final is not None else []
        found += [("last evaluation", one) for one in last]
        return [(f"{said}, {one['episodes']} episodes", one.get(metric), one["episodes"]) for said, one in found]

    def score(self) -> str:
        """The score with what it rests on."""
        if self.estimated:
            return self._estimate()
        metric, (counted, _) = self.result["metric"], self._counted()
        rows = [("metric", self._metric())]
        for said, value, episodes in self._own_scores():
            rows += [(said, _value(metric, value)), ("its 95 % interval", _interval(metric, value, episodes))]
        if len(counted) > 1:
            steps = ", ".join(f"{evaluation['step']:,}" for evaluation in counted)
            what = f"the run's score: mean of the evaluations after {steps} steps"
            rows.append((what, _value(metric, self.result["score"])))
        rows.append(("seeds", f"1: seed {self.run.seed}"))
        broken = sum(evaluation.get("broken") or 0 for evaluation in counted)
        if broken:
            rows.append(("episodes that broke, and count as failed", f"{broken:.0f}"))
        told = (
            "The interval says how well so many episodes tell what this policy reaches. " if metric == "success" else ""
        )
        more = " by more than that" if told else ""
        if len(counted) > 1:
            told += "The run's score, which tables compare, is of the policies on the way too. "
        return (
            f"{_table(rows)}\n\n{told}Another seed's policy may score otherwise{more}: one run says nothing of the"
            " spread over seeds."
        )

    def _estimate(self) -> str:
        last = self._counted()[0][-1]
        rows = [
            ("metric", _METRICS[ESTIMATE][1]),
            ("estimate", _value(ESTIMATE, self.result["score"])),
            ("which is", f"the last evaluation, after {last['step']:,} steps"),
            (
                "95 % interval of the estimate",
                f"{_value(ESTIMATE, last['fqe_low'])} to {_value(ESTIMATE, last['fqe_high'])}",
            ),
            ("held-out episodes, whose starts are valued", f"{last['episodes']}"),
            ("their own discounted return", _value(ESTIMATE, last.get("data_return"))),
            ("seeds", f"1: seed {self.run.seed}"),
        ]
        return (
            f"{_table(rows)}\n\nThe interval covers how few the data are, and chance in fitting. It does not cover that"
            " the policy may go where the data do not: there an estimate is mostly too high. One run says nothing of"
            " the spread over seeds."
        )

    def training(self) -> str:
        """Stage, settings, identity and code."""
        manifest, code = self.manifest, self.manifest.get("code", {})
        start, version = manifest["starts_from"], manifest["training_version"]
        begun = f"{_code(start['stage'])}, identity {_code(start['identity'])}" if start else "nothing"
        rows = [
            ("stage", _code(self.run.stage)),
            ("steps", f"{self.result['steps']:,}"),
            ("starts from", begun),
            ("seed", str(self.run.seed)),
            ("trained together with seeds", _listed(manifest.get("seeds_in_job", []))),
            ("parameters", _number(manifest.get("parameters"))),
            ("identity", _code(manifest["identity"])),
            ("training version", _code(version if not isinstance(version, list) else _dotted(version))),
            ("settings by task from", _recorded(manifest.get("settings_source"))),
            ("MFQL", _recorded(code.get("version"))),
            ("commit of MFQL", _commit(code)),
            ("hash of the training code, the agent's among it", _recorded(code.get("hash"))),
        ]
        if self.result.get("stopped_at") is not None:
            rows.insert(2, ("stopped early at step", f"{self.result['stopped_at']:,}"))
        settings = json.dumps(manifest["settings"], indent=1)
        return f"{_table(rows)}\n\nEvery setting that the run used:\n\n```json\n{settings}\n```"

    def data(self) -> str:
        """The dataset with its terms."""
        dataset = self.manifest["dataset"]
        rows = [
            ("dataset", _code(dataset["name"])),
            ("source", _recorded(dataset.get("source"))),
            ("sha256", _code(dataset["sha256"])),
            ("rows", _number(dataset.get("rows"))),
            ("trajectories", _number(dataset.get("episodes"))),
            ("licence", self.terms.licence),
            ("cite", self.terms.citation or "unknown"),
        ]
        return _table(rows)

    def environment(self) -> str:
        """The environment, and the packages that there were."""
        used, shape = self.used, self.policy["observation_shape"]
        physics, packages = self.policy.get("physics"), self.manifest.get("packages", {})
        corrected = physics.get("corrected") if isinstance(physics, dict) else None
        made = [
            ("suite", "none: a task of an extension" if self.own else _code(self.suite)),
            ("environment's id", _recorded(used.get("env_id") or used.get("gymnasium_id"))),
            ("time limit", f"{_number(used.get('time_limit'))} steps" if used.get("time_limit") else "none"),
        ]
        code = (used.get("code") or {}).get("files", {})
        simulated = [
            ("simulation version", str(self.manifest.get("simulation_version") or 1)),
            ("corrections of the simulation", _named(corrected)),
        ]
        rows = [
            *([("environment", "none: the task is a dataset alone")] if self.estimated else made),
            ("observations", f"{' x '.join(map(str, shape))} {'numbers' if len(shape) == 1 else 'image, stacked'}"),
            ("actions", f"{self.policy['action_dim']} numbers"),
            ("actions at once", str(self.policy.get("horizon", 1))),
            *([] if self.own else simulated),
            *((f"sha256 of its file {_code(name)}", _code(digest)) for name, digest in code.items()),
            *((f"package {_code(name)}", _code(version)) for name, version in packages.items()),
        ]
        return _table(rows)

    def machine(self) -> str:
        """What class of machine it was, and how long it took."""
        manifest, hardware = self.manifest, self.manifest.get("hardware", {})
        seconds, seeds = manifest.get("seconds"), len(manifest.get("seeds_in_job") or [self.run.seed])
        together = "in which it trained alone" if seeds == 1 else f"in which {seeds} seeds trained together"
        rows = [
            ("GPU", _code(hardware["gpu"]) if hardware.get("gpu") else "none"),
            ("processor", _recorded(hardware.get("cpu"))),
            ("cores", _number(hardware.get("cores"))),
            ("memory in GB", _recorded(hardware.get("memory_gb"))),
            ("trained on", _recorded(manifest.get("device"))),
            ("threads", _number(manifest.get("threads"))),
            ("time of the last session", _hours(seconds, together)),
            ("one step of training", _milliseconds(manifest.get("step_ms"))),
            ("one action on the processor", _milliseconds(manifest.get("acting_ms"))),
        ]
        return _table(rows)

    def limits(self) -> str:
        """What the policy is not for."""
        one_seed = "It is one seed. Compare methods by several seeds' scores, not by this one."
        said = [
            "It acts in the simulated environment above, whose observations and actions it takes and gives. Nothing"
            " here was measured on a robot or in another environment.",
            one_seed,
            "Its score holds with the simulation and the packages above; another MuJoCo may be another task.",
        ]
        if self.own:
            said = [
                "It acts in the environment above, whose observations and actions it takes and gives. Nothing here was"
                " measured in another one.",
                one_seed,
                "Its score holds with the environment's code and the packages above; with others it may be another"
                " task.",
            ]
        if self.estimated:
            said = [
                "It takes observations and gives actions as its dataset has them, and never acted: its score is an"
                " estimate from recorded transitions, and comparable with no score of episodes.",
                one_seed,
            ]
        if self.manifest.get("reduced") and not self.own:
            said.append(
                "It was trained for fewer steps than the papers' runs on this task, with which its score does not"
                " compare."
            )
        code = self.manifest.get("code", {})
        if code.get("dirty"):
            said.append("The code that trained it had changes that are in no commit; its hash above names it.")
        if self.about is None:
            said.append("Its agent's code is of an extension of MFQL, which must be there to load it.")
        if self.used.get("registered_by"):
            said.append(
                f"The module {_code(self.used['registered_by'])}, which registers its environment, must be there to act"
                " in it: of a package that is installed, or beside the task table of an extension."
            )
        return "\n".join(f"- {line}" for line in said)

    def _place(self) -> str:
        """Where the run lies in a folder of results."""
        return f"runs/{self.run.method}/{self.run.task}/seed{self.run.seed}/{self.run.stage}"

    def use(self, repo: str | None) -> str:
        """How to load the policy."""
        folder = f"pulled/{self._place()}" if repo else "FOLDER"
        extras = ",".join([*([] if self.estimated else ["envs"]), *(["hub"] if repo else [])])
        outside = self.about is None or bool((self.used.get("code") or {}).get("files"))
        evaluate = f"mfql {'--extension DIR ' if outside else ''}evaluate {shlex.quote(folder)} --out scored.json"
        pull = [f"mfql pull {repo}"] if repo else []
        shell = "\n".join([install(extras), *pull, *([] if self.estimated else [evaluate])])
        where = [] if repo else ["`FOLDER` is one that has `policy.json` and `policy.safetensors`."]
        if outside:
            where.append(
                "Its agent or its environment is of an extension, whose folder is `DIR`; `mfql.load_policy` finds it by"
                " `MFQL_EXTENSIONS=DIR` in the environment."
            )
        shown = "env = policy.make_env()\nobservation, _ = env.reset(seed=policy.begin(0))\n"
        if self.estimated:
            shape = tuple(self.policy["observation_shape"])
            kind = "uint8" if len(shape) == 3 else "float32"
            shown = f"observation = numpy.zeros({shape}, numpy.{kind})  # one as the dataset has them\n"
        imports = "import numpy\n\nimport mfql" if self.estimated else "import mfql"
        loaded = f"policy = mfql.load_policy({json.dumps(folder)})"
        python = f"{imports}\n\n{loaded}\n{shown}action = policy(observation)"
        parts = [_block("bash", shell), *([" ".join(where)] if where else []), _block("python", python)]
        return "\n\n".join([*parts, "Nothing of it is unpickled."])

    def check(self, repo: str | None) -> str:
        """How to see that the files are the run's."""
        command = (
            f"mfql pull {repo}\nmfql verify pulled"
            if repo
            else f"mfql verify {shlex.quote(f'RESULTS/{self._place()}')}"
        )
        where = "" if repo else "`RESULTS` is the folder of results that has the run; a policy alone is none. "
        outputs = [(_code(name), _code(digest)) for name, digest in sorted(self.manifest["outputs"].items())]
        return (
            f"{_block('bash', command)}\n\n{where}Of a run whose method, task or agent is an extension's `mfql verify`"
            " needs its folder, `mfql --extension DIR verify`, to say whether settings and data are those of now; the"
            " files it compares without. The manifest has the sha256 of each file that the run ended with, and its"
            " identity is the hash of settings, versions and data; `mfql pull` refuses files that do not fit them."
            " They show that the files belong together, not who made them: for that, name a commit that you trust"
            f" (`--revision`).\n\n{_table(outputs, ('file of the run', 'sha256'))}"
        )

    def cite(self) -> str:
        """The software, the method's papers and the data."""
        papers = [f"- The method of its agent: [arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in self.papers]
        data = [f"- The data: {self.terms.citation}"] if self.terms.citation else []
        version = self.manifest.get("code", {}).get("version")
        software = (
            f"- The software: {_SOFTWARE}{f', version {_code(version)}' if version else ''}. The MFQL developers."
        )
        return "\n".join([software, *papers, *data])


def _of_agent(agent: str) -> tuple[str | None, list[str]]:
    """What an agent of the project's says of itself, and the papers that it names; of an extension's nothing."""
    try:
        file = agent_file(agent)
    except UserError:
        return None, []
    if file.parent != agent_file("mfql").parent:
        return None, []
    said = (ast.get_docstring(ast.parse(agent_code(file))) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")
    return said, list(dict.fromkeys(_PAPER.findall(said)))


def _section(heading: str, text: str) -> str:
    return f"## {heading}\n\n{text}"


def _table(rows: Iterable[tuple[str, str]], head: tuple[str, str] = ("", "")) -> str:
    lines = [f"| {key} | {value} |" for key, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def _code(value: object) -> str:
    """A value as a span of code, in a table's cell too: no markup, link or element begins or ends in it.

    A bar would end the cell, and no way of escaping it is the same in all Markdown: it is shown as control characters
    are.
    """
    text = in_one_line(str(value)).replace("|", "\\x7c")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _block(language: str, text: str) -> str:
    """A block of code, which nothing in it ends."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _value(metric: str, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}{' %' if metric == 'success' else ''}"


def _interval(metric: str, value: float | None, episodes: int) -> str:
    if metric != "success" or value is None or not 0 <= value <= 100:
        return "none: of returns the evaluations keep their means alone"
    low, high = (100.0 * end for end in wilson(value / 100.0, episodes))
    return f"{low:.1f} to {high:.1f} % (Wilson)"


def _recorded(value: object) -> str:
    return "not recorded" if value in (None, "") else _code(value)


def _named(found: object) -> str:
    """Names as code; none, or that nobody noted them."""
    return (", ".join(map(_code, found)) or "none") if isinstance(found, list) else "not recorded"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def _milliseconds(value: object) -> str:
    return f"{value:.4g} ms" if isinstance(value, int | float) else "not recorded"


def _hours(seconds: object, together: str) -> str:
    return f"{seconds / 3600:.3g} hours, {together}" if isinstance(seconds, int | float) else "not recorded"


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds)) or "not recorded"


def _dotted(version: Iterable[object]) -> str:
    return ".".join(map(str, version))


def _commit(code: Mapping[str, Any]) -> str:
    if not code.get("commit"):
        return "none: an installed package"
    return f"{_code(code['commit'])}{' with changes that are in no commit' if code.get('dirty') else ''}"
