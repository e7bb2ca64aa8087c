"""Runs that are shared: the card, `mfql push` and `mfql pull`, against huggingface_hub's own client.

The server is `tests/support/hub_server.py`, which speaks what that library speaks; the Hub itself is not asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from markdown_it import MarkdownIt

import mfql
from mfql.cli import main
from mfql.documents import read_json, write_json
from mfql.evaluation.interval import wilson
from mfql.files import sha256
from mfql.studies.hub.card import _SOFTWARE, card_of
from mfql.studies.hub.runs import Finished, finished_run
from mfql.tasks import ESTIMATE
from tests.support.hub_server import HubServer, serving
from tests.support.training_runs import ROOT, TASK, Workplace

REPO, SECRET = "lab/first", "hf_aSecretThatNobodyShows"
NAMES = {"README.md", "manifest.json", "evaluation.json", "metrics.csv", "policy.json", "policy.safetensors"}
RUN = f"results/runs/third/{TASK}/seed0/offline"
PULLED = Path(RUN.replace("results", "pulled"))


@pytest.fixture
def place(finished_runs: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Finished runs, in the current folder, of somebody who is logged in."""
    place = Workplace(tmp_path / "place")
    shutil.copytree(finished_runs.folder, place.folder)
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return place


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving(HubServer()) as server:
        yield server


@pytest.fixture
def pushed(place: Workplace, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> HubServer:
    """A Hub that has the run."""
    assert main(["push", RUN, REPO, "--endpoint", hub.url]) == 0
    capsys.readouterr()
    hub.asked.clear()
    return hub


def alter(path: Path, **changes: object) -> None:
    write_json(path, read_json(path) | changes)


def vouch_anew(run: Path) -> None:
    """Have a manifest know the files as they are now, as somebody who alters them all would."""
    manifest = read_json(run / "manifest.json")
    alter(run / "manifest.json", outputs={name: sha256(run / name) for name in manifest["outputs"]})


def described(run: str = RUN) -> str:
    assert main(["card", run, "--out", "card.md", "--license", "mit"]) == 0
    return Path("card.md").read_text(encoding="utf-8")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that is refused, which has no traceback and no token in it."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert SECRET not in said.out + said.err
    return said.err


# --- the card ---------------------------------------------------------------------------------------------------------


def test_a_card_says_what_the_run_recorded(place: Workplace) -> None:
    card = ModelCard(described())
    manifest, result = read_json(Path(RUN, "run/manifest.json")), read_json(Path(RUN, "evaluation.json"))
    data = card.data.to_dict()
    assert data["library_name"] == "mfql"
    assert data["license"] == "mit"
    assert data["datasets"] == ["pointmaze-medium-navigate-v0"]
    assert {"offline-reinforcement-learning", "flow_bc", TASK} <= set(data["tags"])
    (found,), last = card.data.eval_results, result["evaluations"][-1]
    assert (found.metric_type, found.metric_value, found.dataset_name) == ("success_rate", last["success"], TASK)
    low, high = (100 * end for end in wilson(last["success"] / 100, last["episodes"]))
    for said in (
        f"| last evaluation, {last['episodes']} episodes | {last['success']:.4g} % |",
        f"{low:.1f} to {high:.1f} % (Wilson)",
        "| seeds | 1: seed 0 |",
        f"`{manifest['identity']}`",
        f"`{manifest['dataset']['sha256']}`",
        f"`{manifest['outputs']['policy/policy.safetensors']}`",
        f"| package `mujoco` | `{manifest['packages']['mujoco']}` |",
        f"{manifest['seconds'] / 3600:.3g} hours, in which 2 seeds trained together",
        "arXiv:2410.20092",
        "of whoever generated them, with the oracles of OGBench",
        "trained for fewer steps than the papers' runs",
    ):
        assert said in card.text, said
    shown = json.loads(card.text.partition("```json\n")[2].partition("```")[0])
    assert shown == manifest["settings"]


def test_a_card_names_the_method_s_papers_and_a_separate_evaluation(place: Workplace) -> None:
    result = read_json(Path(RUN, "evaluation.json"))
    final = {key: result[key] for key in ("method", "task", "seed", "stage", "identity")}
    write_json(Path(RUN, "final.json"), final | {"episodes": 50, "success": 30.0})
    card = ModelCard(described())
    assert [found.metric_value for found in card.data.eval_results] == [30.0, result["score"]]
    low, high = (100 * end for end in wilson(0.3, 50))
    assert f"{low:.1f} to {high:.1f} % (Wilson)" in card.text
    write_json(Path(RUN, "final.json"), final | {"episodes": 50, "success": 30.0, "identity": "0123456789abcdef"})
    assert len(ModelCard(described()).data.eval_results) == 1
    shipped = ROOT / f"shipped/runs/mfql-quickstart/{TASK.replace('task1', 'task2')}/seed0/online"
    card = ModelCard(described(str(shipped)))
    assert "[arXiv:2511.13035](https://arxiv.org/abs/2511.13035)" in card.text
    assert "arxiv:2511.13035" in card.data.to_dict()["tags"]
    assert "trained offline and then online" in card.text
    # Three evaluations count for the run's score, and the last alone is of the policy that there is.
    scored = read_json(shipped / "evaluation.json")
    last = scored["evaluations"][-1]
    assert card.data.eval_results[-1].metric_value == last["success"] != scored["score"]
    assert f"| last evaluation, {last['episodes']} episodes | {last['success']:.4g} % |" in card.text
    steps = ", ".join(f"{one['step']:,}" for one in scored["evaluations"][-3:])
    assert f"| the run's score: mean of the evaluations after {steps} steps | {scored['score']:.4g} % |" in card.text


def test_a_mean_return_has_no_interval(place: Workplace) -> None:
    run = Path(RUN, "run")
    alter(run / "evaluation.json", metric="return", score=-3.5)
    vouch_anew(run)
    card = ModelCard(described())
    assert "none: of returns the evaluations keep their means alone" in card.text
    assert card.data.eval_results[0].metric_type == "mean_reward"


def test_the_commands_of_a_card_are_those_that_there_are(place: Workplace, tmp_path: Path) -> None:
    """With and without a repository; `FOLDER` is a policy, of which nobody can verify a run."""
    run = f"runs/third/{TASK}/seed0/offline"
    card = described()
    assert f"```bash\nmfql verify RESULTS/{run}\n```" in card
    assert "pip install 'mfql[envs]'\nmfql evaluate FOLDER --out scored.json" in card
    assert main(["verify", f"results/{run}"]) == 0
    shutil.copytree(Path(RUN, "run/policy"), tmp_path / "policy")
    assert main(["verify", str(tmp_path / "policy")]) == 2
    assert mfql.load_policy(tmp_path / "policy") is not None
    card = card_of(finished_run(Path(RUN)), repo=REPO)
    assert f"pip install 'mfql[envs,hub]'\nmfql pull {REPO}\nmfql evaluate pulled/{run} --out scored.json" in card
    assert f"mfql pull {REPO}\nmfql verify pulled" in card


def of_an_extension(**environment: object) -> Finished:
    """The run as if an extension's agent was trained by an extension's method on an extension's task."""
    found = finished_run(Path(RUN))
    used = {"suite": "gymnasium", "env_id": "lab:Lab-v0", "registered_by": "lab", "time_limit": 40, **environment}
    manifest = found.manifest | {"agent": "theirs", "dataset": found.manifest["dataset"] | {"source": "own"}}
    return replace(found, manifest=manifest, policy=found.policy | {"environment": used})


def test_a_card_of_an_extension_s_run_says_nothing_of_papers_suites_or_simulation(place: Workplace) -> None:
    finished = of_an_extension(code={"files": {"lab.py": "0" * 64}, "packages": {}}, score_low=-40.0, score_high=-5.0)
    result = finished.result | {"metric": "normalized_return"}
    card = card_of(replace(finished, result=result))
    for absent in ("paper", "simulat", "OGBench", "MuJoCo", "robot", "The interval says", "expert", "datasets:"):
        assert absent not in card, absent
    for said in (
        "whose agent is `theirs` (of an extension of MFQL)",
        "normalised return: 0 stands for a return of -40, 100 for -5",
        "| suite | none: a task of an extension |",
        "| licence | unknown: nothing that this project reads says it |",
        f"| sha256 of its file `lab.py` | `{'0' * 64}` |",
        "The module `lab`, which registers its environment, must be there to act in it",
        "mfql --extension DIR evaluate FOLDER --out scored.json",
        "`MFQL_EXTENSIONS=DIR`",
    ):
        assert said in card, said


def test_a_card_of_an_extension_s_run_without_an_environment_speaks_of_no_episodes_to_play(place: Workplace) -> None:
    finished = of_an_extension(suite="none", env_id=None, registered_by=None)
    last = {"step": 10, "episodes": 20, "fqe_return": -1.0, "fqe_low": -2.0, "fqe_high": 0.0, "data_return": -3.0}
    told = {"metric": ESTIMATE, "score": -1.0, "score_rule": "last", "evaluations": [last]}
    card = card_of(replace(finished, result=finished.result | told))
    for absent in ("paper", "simulat", "OGBench", "MuJoCo", "robot", "make_env", "mfql evaluate", "datasets:"):
        assert absent not in card, absent
    assert "```bash\npip install mfql\n```" in card
    assert "| environment | none: the task is a dataset alone |" in card
    assert "`MFQL_EXTENSIONS=DIR`" in card


def test_a_card_has_nothing_of_the_machine_s_names(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Path(RUN, "run/manifest.json")
    monkeypatch.setenv("HOME", str(place.folder.parent))
    alter(manifest, settings_source=f"{place.folder}/own.csv", image={"path": "/scratch/somebody/image.sif"})
    card = described()
    assert socket.gethostname() not in card.split()
    assert str(place.folder.parent) not in card
    assert "somebody" not in card


HOSTILE = (
    "a | b <img src=x onerror=alert(1)> [text](https://example.org) ``` `` ` **bold** \\| &lt; $$x$$"
    "\n\n# heading\n---\n"
)


def test_what_others_wrote_makes_no_markup(place: Workplace) -> None:
    run = Path(RUN, "run")
    manifest = read_json(run / "manifest.json")
    alter(
        run / "manifest.json",
        packages=dict.fromkeys([HOSTILE, "mujoco"], HOSTILE),
        hardware=dict.fromkeys(manifest["hardware"], HOSTILE),
        code=dict.fromkeys(manifest["code"], HOSTILE),
        settings_source=HOSTILE,
        dataset=manifest["dataset"] | {"name": HOSTILE, "source": HOSTILE},
        device=HOSTILE,
    )
    alter(run / "policy" / "policy.json", physics={"corrected": [HOSTILE]})
    vouch_anew(run)
    text = described()
    assert yaml.safe_load(text.split("---\n")[1])["datasets"]
    parsed = MarkdownIt("commonmark", {"html": True}).enable("table").parse(ModelCard(text).text)
    inner = [child for token in parsed for child in token.children or []]
    assert not [token for token in parsed if token.type == "html_block"]
    assert {child.type for child in inner} <= {"text", "code_inline", "softbreak", "link_open", "link_close"}
    links = [child.attrs["href"] for child in inner if child.type == "link_open"]
    assert all(link == "#cite" or str(link).startswith("https://arxiv.org/abs/") for link in links)
    cells = [token for token in parsed if token.type == "td_open"]
    assert len(cells) == 2 * len([token for token in parsed if token.type == "tr_open"]) - 2 * text.count("|---|---|")
    headings = [parsed[at + 1].content for at, token in enumerate(parsed) if token.type == "heading_open"]
    assert len(headings) == 10


def test_the_software_is_cited_as_its_own_file_has_it() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["title"] == _SOFTWARE


def diverged(run: Path) -> None:
    alter(run / "evaluation.json", status="diverged", diverged_at=5)
    vouch_anew(run)


def unfinished(run: Path) -> None:
    (run / "evaluation.json").unlink()


def altered_weights(run: Path) -> None:
    weights = bytearray((run / "policy/policy.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "policy/policy.safetensors").write_bytes(weights)


def altered_result(run: Path) -> None:
    alter(run / "evaluation.json", score=100.0)


def altered_setting(run: Path) -> None:
    manifest = read_json(run / "manifest.json")
    alter(run / "manifest.json", settings=manifest["settings"] | {"batch_size": 99})


def of_other_settings(run: Path) -> None:
    method = Path("config/methods/third.yaml")
    method.write_text(method.read_text(encoding="utf-8") + "batch_size: 9\n", encoding="utf-8")


def of_no_known_method(run: Path) -> None:
    Path("config/methods/third.yaml").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (diverged, "diverged at step 5"),
        (unfinished, "is not finished"),
        (altered_result, "it is not the file that its manifest knows"),
        (altered_setting, "other settings, versions or data than its identity is of"),
        (altered_weights, "altered: run/policy/policy.safetensors is not the file that the manifest knows"),
        (of_other_settings, "stale: batch_size"),
        (of_no_known_method, "Name the extension that it is of"),
    ],
)
def test_a_run_that_is_not_what_it_says_is_not_pushed(
    change: Callable[[Path], None], said: str, place: Workplace, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    change(Path(RUN, "run"))
    assert said in refused(["push", RUN, REPO, "--endpoint", hub.url], capsys)
    if change not in (altered_weights, of_other_settings, of_no_known_method):
        assert said in refused(["card", RUN], capsys)
    assert hub.asked == []


# --- push -------------------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_the_run_without_the_machine_s_names(
    place: Workplace, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", RUN, REPO, "--endpoint", hub.url]) == 0
    said = capsys.readouterr().out
    files = hub.files(REPO)
    assert set(files) == {*NAMES, ".gitattributes"}
    run = Path(RUN, "run")
    for name, path in (
        ("evaluation.json", "evaluation.json"),
        ("metrics.csv", "metrics.csv"),
        ("policy.json", "policy/policy.json"),
        ("policy.safetensors", "policy/policy.safetensors"),
    ):
        assert files[name] == (run / path).read_bytes()
    manifest, given = read_json(run / "manifest.json"), json.loads(files["manifest.json"])
    assert given["hardware"]["host"] != manifest["hardware"]["host"]
    assert given["outputs"] == manifest["outputs"]
    assert f"mfql pull {REPO}" in files["README.md"].decode()
    found = hub.repositories[REPO]
    assert f"commit {found.branches['main']}" in said
    assert not found.private
    assert SECRET not in said


def test_a_policy_loads_from_what_the_hub_s_own_client_brings(pushed: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(REPO, endpoint=pushed.url, local_dir=tmp_path / "got", cache_dir=tmp_path / "cache")
    observation = np.zeros(2)
    np.testing.assert_array_equal(mfql.load_policy(folder)(observation), mfql.load_policy(RUN)(observation))


def test_a_second_push_leaves_no_file_of_the_first_policy_and_others_files(
    place: Workplace, pushed: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed.files(REPO).update({"policy.onnx": b"of the first", "notes.txt": b"mine", "my/policy.onnx": b"mine"})
    other = RUN.replace("seed0", "seed1")
    assert main(["push", other, REPO, "--endpoint", pushed.url]) == 0
    files = pushed.files(REPO)
    assert set(files) == {*NAMES, ".gitattributes", "notes.txt", "my/policy.onnx"}
    assert json.loads(files["manifest.json"])["seed"] == 1
    digest = json.loads(files["manifest.json"])["outputs"]["policy/policy.safetensors"].encode()
    Path(other, "policy.onnx").write_bytes(b"exported of " + digest)
    Path(other, "policy.pt2").write_bytes(b"exported of another")
    assert main(["push", other, REPO, "--endpoint", pushed.url]) == 0
    assert pushed.files(REPO)["policy.onnx"] == b"exported of " + digest
    assert "policy.pt2" not in pushed.files(REPO)
    assert "policy.pt2 is not sent: it does not say that it is of this policy" in capsys.readouterr().err


def test_large_files_go_and_come_as_the_hub_has_them(place: Workplace) -> None:
    with serving(HubServer(lfs=True, token=SECRET)) as hub:
        assert main(["push", RUN, REPO, "--endpoint", hub.url, "--private", "--revision", "trial"]) == 0
        assert any(call.startswith("PUT /stored/") for call in hub.calls())
        assert hub.repositories[REPO].private
        assert set(hub.files(REPO)) == {".gitattributes"}
        assert main(["pull", REPO, "--endpoint", hub.url, "--revision", "trial"]) == 0
    assert (PULLED / "run/policy/policy.safetensors").is_file()


def test_a_dry_run_sends_nothing(place: Workplace, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", RUN, REPO, "--endpoint", hub.url, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in NAMES)
    assert "Nothing was sent." in said
    assert hub.asked == []


def test_what_everybody_may_see_is_not_called_private(
    place: Workplace, pushed: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pushed.files(REPO)
    said = refused(["push", RUN, REPO, "--endpoint", pushed.url, "--private"], capsys)
    assert "everybody may see it" in said
    assert pushed.files(REPO) == before


# --- pull -------------------------------------------------------------------------------------------------------------


def test_what_is_pulled_is_the_run_and_is_found_right(
    place: Workplace, pushed: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", REPO, "--endpoint", pushed.url]) == 0
    said = capsys.readouterr().out
    assert f"commit {pushed.repositories[REPO].branches['main']}" in said
    assert f"mfql evaluate {PULLED} --out scored.json" in said
    assert main(["verify", "pulled"]) == 0
    assert main(["scores", str(PULLED / "evaluation.json"), "--out", "scores.csv"]) == 0
    for name in ("policy/policy.safetensors", "policy/policy.json", "metrics.csv", "evaluation.json"):
        assert (PULLED / "run" / name).read_bytes() == Path(RUN, "run", name).read_bytes()
    observation = np.zeros(2)
    np.testing.assert_array_equal(mfql.load_policy(PULLED)(observation), mfql.load_policy(RUN)(observation))
    assert sorted(os.listdir("pulled")) == ["runs"]
    assert "is there already" in refused(["pull", REPO, "--endpoint", pushed.url], capsys)


def test_an_earlier_commit_is_pulled_by_its_hash(place: Workplace, pushed: HubServer) -> None:
    first = pushed.repositories[REPO].branches["main"]
    assert main(["push", RUN.replace("seed0", "seed1"), REPO, "--endpoint", pushed.url]) == 0
    assert main(["pull", REPO, "--endpoint", pushed.url, "--revision", first]) == 0
    assert PULLED.is_dir()


Tamper = Callable[[HubServer, dict[str, bytes]], None]


def json_of(files: dict[str, bytes], name: str, **changes: Any) -> None:
    files[name] = json.dumps(json.loads(files[name]) | changes).encode()


def vouched(files: dict[str, bytes], name: str, content: bytes) -> None:
    """Put a file there that the manifest knows."""
    files[name] = content
    known = {"policy.json": "policy/policy.json", "policy.safetensors": "policy/policy.safetensors"}.get(name, name)
    outputs = json.loads(files["manifest.json"])["outputs"] | {known: hashlib.sha256(content).hexdigest()}
    json_of(files, "manifest.json", outputs=outputs)


def weights(_: HubServer, files: dict[str, bytes]) -> None:
    files["policy.safetensors"] = files["policy.safetensors"][:-1] + b"\xff"


def a_better_score(_: HubServer, files: dict[str, bytes]) -> None:
    json_of(files, "evaluation.json", score=100.0)


def another_log(_: HubServer, files: dict[str, bytes]) -> None:
    files["metrics.csv"] += b"1,loss,0\n"


def another_setting(_: HubServer, files: dict[str, bytes]) -> None:
    settings = json.loads(files["manifest.json"])["settings"]
    json_of(files, "manifest.json", settings=settings | {"batch_size": 99})


def a_way_out(_: HubServer, files: dict[str, bytes]) -> None:
    json_of(files, "manifest.json", method="../../../../escaped")


def a_name_that_hides(_: HubServer, files: dict[str, bytes]) -> None:
    json_of(files, "manifest.json", task=".hidden")


def a_file_outside(_: HubServer, files: dict[str, bytes]) -> None:
    outputs = json.loads(files["manifest.json"])["outputs"]
    json_of(files, "manifest.json", outputs=outputs | {"../../../../../../../place/study.yaml": "0" * 64})


def no_manifest(_: HubServer, files: dict[str, bytes]) -> None:
    files["manifest.json"] = b"[]"


def a_policy_of_another_run(_: HubServer, files: dict[str, bytes]) -> None:
    description = json.loads(files["policy.json"]) | {"identity": "0123456789abcdef"}
    vouched(files, "policy.json", json.dumps(description).encode())


def a_diverged_run(_: HubServer, files: dict[str, bytes]) -> None:
    result = json.loads(files["evaluation.json"]) | {"status": "diverged", "diverged_at": 5}
    vouched(files, "evaluation.json", json.dumps(result).encode())


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def a_pickle_for_weights(_: HubServer, files: dict[str, bytes]) -> None:
    content = pickle.dumps(Trap())
    description = json.loads(files["policy.json"]) | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    vouched(files, "policy.json", json.dumps(description).encode())
    vouched(files, "policy.safetensors", content)


def a_lost_file(_: HubServer, files: dict[str, bytes]) -> None:
    del files["policy.json"]


def a_huge_file(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.sizes["policy.json"] = 1 << 40


def a_short_download(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.faults["policy.safetensors"] = "short"


def a_download_that_is_altered(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.faults["README.md"] = "altered"


def a_download_without_an_end(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.faults["policy.json"] = "endless"


def a_redirect_to_other_bytes(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.stored["other"] = b"{}"
    hub.faults["evaluation.json"] = f"to:{hub.url.replace('127.0.0.1', 'localhost')}/stored/other"


def a_redirect_to_itself(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.faults["evaluation.json"] = f"to:{hub.url}/lab/first/resolve/main/evaluation.json"


def a_commit_that_is_a_way(hub: HubServer, _: dict[str, bytes]) -> None:
    hub.sha = "../../../../../../escaped"


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (weights, "run/policy/policy.safetensors is not the file that the manifest knows"),
        (a_better_score, "evaluation.json is altered: it is not the file that its manifest knows"),
        (another_log, "run/metrics.csv is not the file that the manifest knows"),
        (another_setting, "other settings, versions or data than its identity is of"),
        (a_way_out, "manifest.json names no run"),
        (a_name_that_hides, "manifest.json names no run"),
        (a_file_outside, "no run's files"),
        (no_manifest, "manifest.json holds a list, no object"),
        (a_policy_of_another_run, "its identity is not the manifest's"),
        (a_diverged_run, "diverged at step 5"),
        (a_pickle_for_weights, "policy.safetensors is no file of safetensors"),
        (a_lost_file, "lacks policy.json"),
        (a_huge_file, "policy.json has 1,099,511,627,776 bytes"),
        (a_short_download, "file should be of size"),
        (a_download_that_is_altered, "README.md did not come as commit"),
        (a_download_without_an_end, "that the repository announced"),
        (a_redirect_to_other_bytes, "file should be of size"),
        (a_redirect_to_itself, "edirect"),
        (a_commit_that_is_a_way, "is no commit's hash"),
    ],
)
def test_what_is_not_as_it_was_pushed_is_refused_and_leaves_nothing(
    tamper: Tamper, said: str, place: Workplace, pushed: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(pushed, pushed.files(REPO))
    before = sorted(place.folder.parent.rglob("*"))
    found = refused(["pull", REPO, "--endpoint", pushed.url], capsys)
    assert said in found
    assert str(place.folder) not in found
    assert sorted(place.folder.parent.rglob("*")) == before


def test_other_files_are_named_and_not_asked_for(
    place: Workplace, pushed: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed.files(REPO).update({"weights.pkl": pickle.dumps(Trap()), "run.py": b"exit()", "policy.onnx": b"x"})
    other = {"type": "file", "size": 1, "oid": "0" * 40}
    pushed.listed = [other | {"path": path} for path in ("../escaped", "/etc/escaped", "policy/policy.json")]
    pushed.listed.append({"type": "directory", "path": "policy", "oid": "0" * 40})
    assert main(["pull", REPO, "--endpoint", pushed.url]) == 0
    said = capsys.readouterr().err
    assert "other files, which were not taken: ../escaped, /etc/escaped, policy.onnx, policy/policy.json" in said
    assert "run.py, weights.pkl" in said
    asked = {call.rpartition("/")[2] for call in pushed.calls() if "/resolve/" in call}
    assert asked == NAMES
    kept = {path.name for path in Path("pulled").rglob("*") if path.is_file()}
    assert kept == NAMES


def test_a_redirect_elsewhere_is_followed_without_the_token(place: Workplace, pushed: HubServer) -> None:
    """As the Hub sends its large files; another name of this machine stands for another host."""
    with serving(HubServer()) as elsewhere:
        elsewhere.stored["weights"] = pushed.files(REPO)["policy.safetensors"]
        pushed.faults["policy.safetensors"] = f"to:{elsewhere.url.replace('127.0.0.1', 'localhost')}/stored/weights"
        assert main(["pull", REPO, "--endpoint", pushed.url]) == 0
        assert [(call, token) for call, token in elsewhere.asked] == [("GET /stored/weights", None)]
    assert PULLED.is_dir()


def test_no_token_is_asked_of_who_has_none(place: Workplace, pushed: HubServer, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(place.folder / "no-token"))
    assert main(["pull", REPO, "--endpoint", pushed.url]) == 0
    assert {token for _, token in pushed.asked} == {None}


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


def test_what_is_not_there_is_a_message(pushed: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--endpoint", pushed.url]
    assert "has no repository lab/none, or none for whoever asks" in refused(["pull", "lab/none", *at], capsys)
    assert "has no revision old" in refused(["pull", REPO, "--revision", "old", *at], capsys)
    assert "'a/b/c' is no repository" in refused(["pull", "a/b/c", *at], capsys)
    assert "'../x' is no repository" in refused(["push", RUN, "../x", *at], capsys)
    assert "'x' is no repository: it names no owner" in refused(["push", RUN, "x", *at], capsys)
    assert "is neither an address nor a folder" in refused(["pull", REPO, "--endpoint", "nowhere"], capsys)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses access to lab/first (401): not with"),
        (403, "refuses access to lab/first (403): not with"),
        (404, "has no repository lab/first"),
        (410, "answers 410: not with"),
    ],
)
def test_what_the_hub_refuses_is_a_message_without_the_token(
    status: int, said: str, pushed: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed.said = f"not with {SECRET} of https://me:{SECRET}@example.org/?token={SECRET}"
    pushed.refused = {"GET /api/models/": status, "POST /api/repos/create": status}
    for command in (["pull", REPO], ["push", RUN, REPO]):
        found = refused([*command, "--endpoint", pushed.url], capsys)
        assert said in found
        assert "hf auth login" in found or status == 410


def test_wrong_credentials_are_said_to_be_refused(pushed: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    pushed.said = "Invalid credentials in Authorization header"
    pushed.refused = {"GET /api/models/": 401}
    assert "refuses access to lab/first (401)" in refused(["pull", REPO, "--endpoint", pushed.url], capsys)


def test_a_hub_that_cannot_be_reached_is_a_message(
    place: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(HubServer()) as gone:
        address = gone.url.replace("//", f"//me:{SECRET}@")
    for command in (["pull", REPO], ["push", RUN, REPO]):
        assert "cannot be reached" in refused([*command, "--endpoint", address], capsys)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for command in (["pull", REPO], ["push", RUN, REPO]):
        assert "HF_HUB_OFFLINE is set" in refused([*command, "--endpoint", gone.url], capsys)


def test_a_server_that_is_no_hub_is_a_message(
    place: Workplace, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refused = {"GET /api/models/": 200, "POST /api/repos/create": 200}
    for command in (["pull", REPO], ["push", RUN, REPO]):
        assert hub.url in refused([*command, "--endpoint", hub.url], capsys)


def test_a_missing_package_is_named_with_its_extra(
    place: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for command in (["card", RUN], ["pull", REPO], ["push", RUN, REPO]):
        assert "pip install 'mfql[hub]'" in refused(command, capsys)


CORE_AND_HUB = """
import sys

for name in ("scipy", "pandas", "matplotlib", "h5py", "mujoco", "ogbench", "dm_control", "requests", "snakemake"):
    sys.modules[name] = None
from mfql.cli import main

sys.exit(main(sys.argv[1:]))
"""


def test_pulling_needs_the_extra_hub_alone(place: Workplace) -> None:
    Path("shelf").mkdir()
    assert main(["push", RUN, REPO, "--endpoint", "shelf"]) == 0
    done = subprocess.run(
        [sys.executable, "-c", CORE_AND_HUB, "pull", REPO, "--endpoint", "shelf"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert PULLED.is_dir()


# --- a folder in place of a Hub ---------------------------------------------------------------------------------------


def test_a_folder_stands_for_a_hub(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    Path("shelf").mkdir()
    assert main(["push", RUN, REPO, "--endpoint", "shelf"]) == 0
    assert {path.name for path in Path("shelf", REPO).iterdir()} == NAMES
    assert main(["pull", REPO, "--endpoint", "shelf"]) == 0
    assert "a folder, which has no commits" in capsys.readouterr().out
    assert main(["verify", "pulled"]) == 0
    assert "is there already" in refused(["push", RUN, REPO, "--endpoint", "shelf"], capsys)
    assert "--private is of a Hub" in refused(["push", RUN, "lab/x", "--endpoint", "shelf", "--private"], capsys)
    assert "--revision is of a Hub" in refused(["pull", REPO, "--endpoint", "shelf", "--revision", "main"], capsys)
    assert "has no repository lab/none" in refused(["pull", "lab/none", "--endpoint", "shelf"], capsys)


def a_link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    (folder / "policy.json").rename(elsewhere)
    (folder / "policy.json").symlink_to(elsewhere)


def a_pipe(folder: Path) -> None:
    (folder / "policy.json").unlink()
    os.mkfifo(folder / "policy.json")


def other_weights(folder: Path) -> None:
    (folder / "policy.safetensors").write_bytes((folder / "policy.safetensors").read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [(a_link, "lacks policy.json"), (a_pipe, "lacks policy.json"), (other_weights, "not the file that the manifest")],
)
def test_what_is_altered_in_a_folder_is_refused(
    change: Callable[[Path], None], said: str, place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shelf").mkdir()
    assert main(["push", RUN, REPO, "--endpoint", "shelf"]) == 0
    change(Path("shelf", REPO))
    before = sorted(place.folder.parent.rglob("*"))
    assert said in refused(["pull", REPO, "--endpoint", "shelf"], capsys)
    assert sorted(place.folder.parent.rglob("*")) == before
