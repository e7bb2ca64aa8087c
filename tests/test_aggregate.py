from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rliable import metrics
from scipy import stats

from mfql.cli import main
from mfql.operations.verify import _same
from mfql.report import aggregate, figures
from mfql.report.curves import COLUMNS, OFFLINE_CURVE, ONLINE_CURVE, curves
from mfql.report.scores import collect
from mfql.report.tasks import between_methods, by_task
from tests.support.fake_results import EPISODES, TASK, write_quickstart, write_run

OTHER = "cube-single-play-singletask-task1-v0"


def study(results: Path, scores: dict[tuple[str, str], list[float]], **run: object) -> pd.DataFrame:
    """Scores of runs that end at these numbers: (method, task) -> one a seed."""
    return collect(
        write_run(results, [score], method=method, task=task, seed=seed, **run)
        for (method, task), ends in scores.items()
        for seed, score in enumerate(ends)
    )


def only(table: pd.DataFrame, **where: object) -> pd.Series:
    """The one row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture
def quickstart(tmp_path: Path) -> pd.DataFrame:
    return collect(write_quickstart(tmp_path))


def test_a_tasks_mean_has_its_interval_seeds_and_episodes(quickstart: pd.DataFrame) -> None:
    row = only(by_task(quickstart), stage="offline", method="flow_bc", metric="score")
    t = stats.ttest_1samp([16, 20, 24], 0).confidence_interval(0.95)
    assert (row["value"], row["low"], row["high"], row["std"]) == pytest.approx((20, t.low, t.high, 4))
    assert (row["seeds"], row["diverged"], row["episodes"], row["unit"]) == (3, 0, 9 * EPISODES, "success")
    assert row["by_seed"] == "0:16 1:20 2:24"


def test_a_success_rate_stays_between_0_and_100(quickstart: pd.DataFrame) -> None:
    row = only(by_task(quickstart), stage="offline", method="mfql", metric="score")
    assert row["value"] == 94
    assert row["high"] == 100


def test_a_normalised_return_has_no_bounds_and_no_floor(tmp_path: Path) -> None:
    table = by_task(
        study(tmp_path, {("mfql", TASK): [120.0, 130.0], ("bc", TASK): [-5, -5]}, metric="normalized_return")
    )
    t = stats.ttest_1samp([120, 130], 0).confidence_interval(0.95)
    assert tuple(only(table, method="mfql")[["low", "high"]]) == pytest.approx((t.low, t.high))
    assert tuple(only(table, method="bc")[["low", "high"]]) == (-5, -5)
    assert set(table["unit"]) == {"normalized_return"}


def test_a_normalised_return_that_is_a_success_rate_has_the_floor_of_its_episodes(tmp_path: Path) -> None:
    """As of AntMaze in D4RL: three seeds without a success do not show a rate of exactly 0."""
    ends = {("mfql", TASK): [0.0, 0.0, 0.0]}
    row = only(by_task(study(tmp_path, ends, metric="normalized_return", is_success=True)), method="mfql")
    high = stats.binomtest(0, 3 * EPISODES).proportion_ci(0.95, "wilson").high
    assert tuple(row[["value", "low", "high"]]) == pytest.approx((0, 0, 100 * high))
    assert (row["unit"], row["episodes"]) == ("normalized_return", 3 * EPISODES)


def test_the_rise_during_online_training_has_an_interval(quickstart: pd.DataFrame) -> None:
    row = only(by_task(quickstart), metric="rise")
    assert row["stage"] == "online"
    assert row["value"] == pytest.approx(223 / 3)
    assert 60 < row["low"] < row["value"] < row["high"] < 85


def test_a_diverged_seed_is_counted_with_zero_and_said(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [80.0] * 4, seed=seed) for seed in range(3)]
    files.append(write_run(tmp_path, [80.0, 80.0], seed=3, diverged_at=2500))
    row = only(by_task(collect(files)))
    assert (row["value"], row["seeds"], row["diverged"]) == (60.0, 4, 1)
    assert row["low"] == 0
    curve = curves(collect(files)).set_index("step")
    assert curve["value"].tolist() == [80, 80, 60, 60]
    assert curve["seeds"].tolist() == [4, 4, 4, 4]
    assert curve["diverged"].tolist() == [0, 0, 1, 1]


def test_all_seeds_diverging_before_any_evaluation_is_a_score_of_zero(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [], seed=seed, diverged_at=10) for seed in range(3)])
    scores = pd.concat([scores, collect([write_run(tmp_path, [50.0], method="bc")])])
    tables = {name: table(scores) for name, table in aggregate.TABLES.items()}
    row = only(tables["tasks"], method="mfql")
    assert (row["value"], row["diverged"]) == (0, 3)
    assert set(tables["curves"]["method"]) == {"bc"}


def test_where_every_run_diverges_before_any_evaluation_tables_and_figures_are_made(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [], seed=seed, diverged_at=10) for seed in range(3)])
    tables = aggregate.write(scores, tmp_path / "aggregate")
    assert list(tables["curves"].columns) == COLUMNS
    assert tables["curves"].empty
    for draw in figures.drawings(tables, tmp_path / "aggregate"):
        draw()


def test_a_return_of_which_there_is_no_evaluation_is_the_worst_of_the_tasks_other_runs(tmp_path: Path) -> None:
    files = [
        write_run(tmp_path, [-30.0, -20.0], metric="return"),
        write_run(tmp_path, [-15.0], metric="return", seed=1),
    ]
    lost = [write_run(tmp_path, [], metric="return", method="bc", seed=seed, diverged_at=10) for seed in range(2)]
    row = only(by_task(collect([*files, *lost])), method="bc")
    assert (row["value"], row["diverged"]) == (-130, 2)  # The return of a fake run is its score below 100.
    files.append(write_run(tmp_path, [], metric="return", seed=2, diverged_at=10))
    curve = curves(collect([*files, *lost])).set_index("step")
    assert curve["seeds"].iloc[0] == 3
    held = collect([*files, *lost])
    held = held[(held["method"] == "bc") & (held["seed"] == 0)]
    assert _same(held, collect(lost[:1]))  # `mfql verify` reads each run alone.
    assert not _same(held.assign(step=held["step"] + 1), collect(lost[:1]))


def test_a_seed_stopped_early_stays_in_the_curve_with_its_last_evaluation(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [10.0, 20.0, 30.0], seed=0), write_run(tmp_path, [60.0], seed=1, stopped_at=1000)]
    assert curves(collect(files))["value"].tolist() == [35, 40, 45]


def test_methods_are_compared_task_by_task(quickstart: pd.DataFrame) -> None:
    row = only(between_methods(quickstart))
    assert (row["method"], row["baseline"], row["difference"]) == ("mfql", "flow_bc", 74)
    assert row["low"] == pytest.approx(stats.ttest_ind([90, 94, 98], [16, 20, 24]).confidence_interval(0.95).low)
    assert row["apart"]


def test_overlapping_intervals_are_not_apart(tmp_path: Path) -> None:
    rows = between_methods(study(tmp_path, {("a", TASK): [90, 60, 95], ("b", TASK): [60, 70, 40]}))
    assert not only(rows)["apart"]


def test_one_method_or_one_seed_gives_no_verdict(tmp_path: Path) -> None:
    assert between_methods(study(tmp_path, {("a", TASK): [90, 60]})).empty
    row = only(between_methods(study(tmp_path / "single", {("a", TASK): [90], ("b", TASK): [10]})))
    assert row["difference"] == 80
    assert not row["apart"]
    assert np.isnan(row["low"])


def test_over_tasks_the_statistics_are_rliables(tmp_path: Path) -> None:
    ends = {("a", TASK): [80, 90, 100, 70, 60], ("a", OTHER): [10, 20, 0, 40, 30]}
    table = aggregate.over_tasks(study(tmp_path, ends))
    matrix = np.array(list(ends.values())).T
    mean, iqm = (only(table, statistic=name) for name in ("mean", "iqm"))
    assert mean["value"] == pytest.approx(metrics.aggregate_mean(matrix))
    assert iqm["value"] == pytest.approx(metrics.aggregate_iqm(matrix))
    assert (mean["tasks"], mean["seeds"], mean["runs"]) == (2, 5, 10)
    assert iqm["low"] < iqm["value"] < iqm["high"]
    assert mean["low"] < mean["value"] < mean["high"]


@pytest.mark.parametrize("runs", [2, 3, 4, 5, 7, 8])
def test_the_interquartile_mean_cuts_a_quarter_of_the_runs_rounded_down_at_either_end(
    tmp_path: Path, runs: int
) -> None:
    ends = sorted([0.0, 3.0, 10.0, 30.0, 50.0, 80.0, 95.0, 100.0][:runs])
    table = aggregate.over_tasks(study(tmp_path, {("a", TASK): ends}))
    cut = runs // 4
    assert only(table, statistic="iqm")["value"] == pytest.approx(np.mean(ends[cut : runs - cut]))
    assert (cut == 0) == (runs < 4)  # the page says that of three runs it is their mean


def test_over_one_task_the_mean_is_the_tasks_own(quickstart: pd.DataFrame) -> None:
    of_task = only(by_task(quickstart), stage="offline", method="flow_bc", metric="score")
    over = only(aggregate.over_tasks(quickstart), stage="offline", method="flow_bc", statistic="mean")
    assert tuple(over[["value", "low", "high"]]) == pytest.approx(tuple(of_task[["value", "low", "high"]]))


def test_tasks_weigh_the_same_whatever_their_number_of_seeds(tmp_path: Path) -> None:
    uneven = study(tmp_path / "uneven", {("a", TASK): [90, 100], ("a", OTHER): [10, 10, 20, 20]})
    even = study(tmp_path / "even", {("a", TASK): [90, 90, 100, 100], ("a", OTHER): [10, 10, 20, 20]})
    assert aggregate.over_tasks(uneven)["value"].tolist() == aggregate.over_tasks(even)["value"].tolist() == [55, 55]


def test_methods_are_aggregated_over_the_tasks_that_all_have(tmp_path: Path) -> None:
    tasks = [TASK, OTHER, "third", "fourth"]
    ends = {("a", task): [50.0, 60.0] for task in tasks}
    ends |= {("b", task): [10.0, 20.0] for task in tasks[1:]} | {("little", tasks[0]): [99.0, 99.0]}
    scores = study(tmp_path, ends)
    table = aggregate.over_tasks(scores)
    assert set(table["method"]) == {"a", "b"}  # `little` has fewer than half of the tasks
    assert set(table["tasks"]) == {3}
    assert set(by_task(scores)["method"]) == {"a", "b", "little"}


def test_methods_without_a_common_task_have_tables_and_a_page_without_aggregates(tmp_path: Path) -> None:
    scores = study(tmp_path, {("a", TASK): [50.0, 60.0], ("b", OTHER): [10.0, 20.0]})
    tables = aggregate.write(scores, tmp_path / "aggregate")
    assert {name: list(table.columns) for name, table in tables.items() if table.empty} == {
        name: list(aggregate.COLUMNS[name]) for name in ("comparisons", "aggregate", "improvement", "profiles")
    }
    scores.to_csv(tmp_path / "scores.csv", index=False)
    page = ["--results", str(tmp_path), "--out", str(tmp_path / "report.html"), "--partial"]
    assert main(["aggregate", str(tmp_path / "scores.csv"), "--out", str(tmp_path / "drawn")]) == 0
    assert (
        main(["report", "--scores", str(tmp_path / "scores.csv"), "--aggregates", str(tmp_path / "drawn"), *page]) == 0
    )


def test_the_method_that_leads_has_the_higher_mean_over_the_tasks_compared(tmp_path: Path) -> None:
    ends = {("a", TASK): [61.0], ("b", TASK): [81.0, 81.0], ("b", OTHER): [6.0] * 9, ("a", OTHER): [5.0]}
    row = only(aggregate.improvement(study(tmp_path, ends)))
    assert (row["method"], row["baseline"], row["difference"]) == ("b", "a", 10.5)


def test_success_and_returns_are_never_mixed(tmp_path: Path) -> None:
    mixed = pd.concat(
        [
            study(tmp_path, {("a", TASK): [50.0, 60.0]}),
            study(tmp_path, {("a", "pen"): [140.0, 150.0]}, metric="normalized_return"),
        ]
    )
    means = aggregate.over_tasks(mixed).query("statistic == 'mean'").set_index("unit")["value"]
    assert means.to_dict() == {"success": 55, "normalized_return": 145}


def test_probability_of_improvement_is_rliables(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 50, (6, 2)) * 2.0 for _ in range(2))
    ends = {("a", task): a[:, i].tolist() for i, task in enumerate((TASK, OTHER))}
    ends |= {("b", task): b[:, i].tolist() for i, task in enumerate((TASK, OTHER))}
    row = only(aggregate.improvement(study(tmp_path, ends)))
    best, other = (a, b) if row["method"] == "a" else (b, a)
    assert row["probability"] == pytest.approx(metrics.probability_of_improvement(best, other))
    assert row["probability_low"] <= row["probability"] <= row["probability_high"]
    assert row["difference"] == pytest.approx(best.mean() - other.mean())


def test_a_profile_is_the_share_of_runs_above_a_threshold(tmp_path: Path) -> None:
    table = aggregate.profiles(study(tmp_path, {("a", TASK): [20.0, 40.0], ("a", OTHER): [60.0, 60.0]}))
    shares = table.set_index("threshold")["value"]
    assert [shares[at] for at in (0, 20, 30, 40, 59, 60, 100)] == [1, 0.75, 0.75, 0.5, 0.5, 0, 0]


def test_aggregates_repeat_leave_numpys_generator_alone_and_ignore_the_order_of_seeds(tmp_path: Path) -> None:
    ends = {("a", TASK): [80, 90, 100, 70, 60], ("a", OTHER): [10, 20, 0, 40, 30]}
    np.random.seed(7)  # noqa: NPY002
    first = aggregate.over_tasks(study(tmp_path, ends))
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    turned = aggregate.over_tasks(study(tmp_path / "turned", {key: scores[::-1] for key, scores in ends.items()}))
    pd.testing.assert_frame_equal(first, turned)


def test_curves_run_from_offline_to_online_on_one_axis(quickstart: pd.DataFrame) -> None:
    table = curves(quickstart)
    online = table[table["curve"] == ONLINE_CURVE]
    assert online["step"].tolist() == [1000, 2000, 3000, 4000, 5000, 6000]
    assert online["stage"].tolist() == ["pretrain"] * 2 + ["online"] * 4
    assert set(online["switch"]) == {2000}
    assert online["value"].tolist() == [5, 31, 61, 90, 93, 94]
    offline = table[(table["curve"] == OFFLINE_CURVE) & (table["method"] == "flow_bc")]
    assert offline["value"].tolist() == [2, 8, 20, 20, 20]
    assert offline["switch"].isna().all()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_an_offline_run_that_online_training_starts_from_is_in_both_curves(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [10.0, 20.0]), write_run(tmp_path, [50.0], stage="online", starts_from="offline")]
    table = curves(collect(files))
    assert table.loc[table["curve"] == OFFLINE_CURVE, "step"].tolist() == [1000, 2000]
    assert table.loc[table["curve"] == ONLINE_CURVE, "step"].tolist() == [1000, 2000, 3000]


def test_write_leaves_one_csv_a_table(quickstart: pd.DataFrame, tmp_path: Path) -> None:
    tables = aggregate.write(quickstart, tmp_path / "out")
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / f"{name}.csv"), table, check_dtype=False)


def test_an_average_says_of_how_many_origins_its_runs_are(tmp_path: Path) -> None:
    code = {"version": "0.1.0", "commit": "f" * 40, "dirty": False}
    files = [write_run(tmp_path, [50.0, 60.0], task=task, seed=seed) for task in (TASK, OTHER) for seed in range(2)]
    files.append(write_run(tmp_path, [50.0, 60.0], task=OTHER, seed=2, code=code))
    scores = collect(files)
    assert only(by_task(scores), task=TASK)["origins"] == 1
    assert only(by_task(scores), task=OTHER)["origins"] == 2
    assert set(aggregate.over_tasks(scores)["origins"]) == {2}
