"""A method's name with values: what it sets, what it refuses, and that values survive it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfql.agents.mfql import MFQLSettings
from mfql.errors import UserError
from mfql.experiment.tuning import COLUMNS
from mfql.methods import declared_settings, method_name, raw_settings, settings_hash, split_method, table_keys
from mfql.settings import build_settings

CONFIG = Path(__file__).parents[1] / "config"
SCENE = "scene-play-singletask-task2-v0"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the configuration, to which methods may be added."""
    shutil.copytree(CONFIG, tmp_path / "config")
    return tmp_path / "config"


def test_a_name_with_values_is_a_file_that_inherits_and_sets_them(config: Path) -> None:
    (config / "methods" / "same.yaml").write_text(
        "inherits: mfql\nalpha: 300\nq_agg: min\nnormalize_q: true\ntau: 1.0e-2\n", encoding="utf-8"
    )
    named = "mfql+alpha=300+q_agg=min+normalize_q=true+tau=1e-2"
    for stage in ("offline", "pretrain", "online"):
        assert raw_settings(named, SCENE, stage, config) == raw_settings("same", SCENE, stage, config)
    assert settings_hash(named, SCENE, "online", config) == settings_hash("same", SCENE, "online", config)


def test_a_name_may_ask_for_the_tables_value(config: Path) -> None:
    assert raw_settings("mfql-laptop", SCENE, "offline", config)["num_candidates"] == 4
    assert raw_settings("mfql-laptop+num_candidates=task", SCENE, "offline", config)["num_candidates"] == 5
    assert "num_candidates" not in table_keys("mfql-laptop", config)
    assert set(COLUMNS) <= table_keys("mfql-laptop+num_candidates=task", config)


@pytest.mark.parametrize(
    "name", ["mfql+alpha", "mfql+alpha=", "mfql+", "mfql+=3", "mfql+agent=flow_bc", "mfql+alpha=1+alpha=2"]
)
def test_a_name_that_sets_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"changes no setting"):
        raw_settings(name, SCENE, "offline", CONFIG)


def test_a_name_with_an_unknown_setting_is_refused_by_key() -> None:
    raw = raw_settings("mfql+alhpa=3", SCENE, "offline", CONFIG)
    with pytest.raises(UserError, match="alhpa"):
        build_settings(MFQLSettings, {key: value for key, value in raw.items() if key != "agent"}, "here")


def test_a_list_in_a_name_is_the_files_list(config: Path) -> None:
    (config / "methods" / "same.yaml").write_text(
        "inherits: mfql\ncritic_hidden: [64, 32]\nencoder_channels: [16]\n", encoding="utf-8"
    )
    named = "mfql+critic_hidden=64x32+encoder_channels=16x"
    for stage in ("offline", "pretrain", "online"):
        assert raw_settings(named, SCENE, stage, config) == raw_settings("same", SCENE, stage, config)
        assert settings_hash(named, SCENE, stage, config) == settings_hash("same", SCENE, stage, config)


@pytest.mark.parametrize("value", ["64", "x", "64xx64", "x64", "64x-1", "64xwide", "64-64"])
def test_what_is_no_list_is_refused_with_what_one_looks_like(value: str) -> None:
    with pytest.raises(UserError, match=r"critic_hidden is .*\n  It must be a list, in a name such as 64x64"):
        declared_settings(f"mfql+critic_hidden={value}", SCENE, "offline", CONFIG)


@pytest.mark.parametrize("value", [[], [-1, 2], ["wide"], [[1, 2], [3, 4]], [True, False]])
def test_a_list_that_no_name_can_have_is_refused(value: list) -> None:
    with pytest.raises(UserError, match="no method's name can have"):
        method_name("mfql", {"critic_hidden": value})


def test_a_name_is_refused_that_no_folder_and_no_log_can_have(tmp_path: Path) -> None:
    longest = "mfql+alpha=" + "1" * 239
    assert split_method(longest)[0] == "mfql"
    (tmp_path / f"{longest}.yaml").touch()
    with pytest.raises(UserError, match=r"has 251 bytes(.|\n)*inherits: mfql`"):
        split_method(f"{longest}1")


numbers = st.one_of(
    st.integers(0, 10**9),
    st.floats(1e-300, 1e300, allow_nan=False),
    st.none(),
    st.booleans(),
    st.lists(st.integers(0, 10**9) | st.floats(0, 1e300), min_size=1, max_size=6),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["alpha", "num_candidates", "tau", "eval_interval"]), numbers))
def test_values_survive_a_methods_name(values: dict[str, Any]) -> None:
    name = method_name("mfql-laptop", values)
    assert re.fullmatch(r"[\w.+=-]+", name)
    if len(name) <= 250:
        assert split_method(name) == ("mfql-laptop", values)
