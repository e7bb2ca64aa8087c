"""The report in a real browser: Chromium, headless, opening the page from the file system with no network.

    make check-browser

Needs Debian's packages chromium and chromium-driver, or others named by CHROMIUM and CHROMEDRIVER.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from mfql.documents import write_json
from mfql.report import bootstrap, chain
from mfql.report.drawing import drawing
from mfql.report.html import Options
from mfql.report.panels import Text, write_panel
from mfql.tasks import load_tasks
from tests.support.fake_results import write_final, write_study
from tests.support.hostile import ELSEWHERE, NAMES, SVG, UNFIT

ROOT = Path(__file__).parents[2]
CUBE = [f"cube-double-play-singletask-task{number}-v0" for number in (1, 2)]
SCENE = "scene-play-singletask-task2-v0"
PEN = "pen-human-v1"
METHODS = ["bc", "iql", "fql", "mfql"]
FILTERED = "[data-task]:not([hidden])"


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything that one can hold."""
    results = tmp_path_factory.mktemp("report") / "results"
    folder = results / "study"
    files = write_study(results, [*CUBE, SCENE, PEN], [SCENE], METHODS, seeds=2, evaluations=3, returns=[PEN])
    for file in files:
        write_final(file, 50.0) if "cube" in str(file) else None
    run = results / "runs/mfql" / SCENE / "seed0/offline"
    Image.new("RGB", (1280, 160), "teal").save(run / "strip.png")
    write_json(run / "video.json", {"episodes": 1})
    scores = folder / "scores.csv"
    chain.collect(files, scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPETITIONS", 20)
        chain.aggregate(scores, folder / "aggregate")
    tasks = load_tasks(ROOT / "config/tasks.csv")
    compared = chain.references(ROOT / "published", tasks, ROOT / "config")
    outside = folder / "outside.csv"
    _outside().to_csv(outside, index=False)
    chain.judge(scores, results, compared, [outside], folder / "verdict")
    _write_panels(folder)
    _write_hostile(folder)
    options = Options(results, folder / "aggregate", verdict=folder / "verdict/verdict.csv", tasks=tasks, panels=folder)
    chain.page(scores, folder / "report.html", options)
    return folder / "report.html"


def _write_panels(folder: Path) -> None:
    data = pd.DataFrame({"alpha": [1.0, 10.0, 100.0], "success": [10.0, 60.0, 40.0]})
    with drawing():
        figure, axes = plt.subplots()
        axes.plot(data["alpha"], data["success"])
    text = Text("Alpha", "Which alpha is best?", "Mean success against alpha.", "snakemake ablation_alpha")
    write_panel(folder / "ablations/alpha", figure, data, text, data.astype(str))
    claims = pd.DataFrame({"claim": ["one step is enough"], "verdict": ["held"]})
    text = Text("Claims", "Do the paper's claims hold?", "One row a claim.", "snakemake claims")
    write_panel(folder / "claims/all", None, claims, text)


def _outside() -> pd.DataFrame:
    """Scores of somebody else, whose methods and sources would be markup."""
    told = {"task": CUBE[0], "stage": "offline", "mean": 12, "std": 2, "seeds": 3}
    return pd.DataFrame([{**told, "method": name, "source": name} for name in NAMES.values()])


def _write_hostile(folder: Path) -> None:
    """Panels of somebody else: markup in each text, name and file."""
    figures = {"whole": SVG[: SVG.index("</svg>") + 6], "followed": SVG, **UNFIT}
    for number, (name, svg) in enumerate(figures.items()):
        said = list(NAMES.values())[number % len(NAMES)]
        panel = folder / "theirs" / f"{number} {name} <b>'\"&"
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        write_panel(panel, figure, pd.DataFrame({said: [said]}), Text(said, said, said, said))
        (panel / "figure.svg").write_text(svg, encoding="utf-8")
    for number, said in enumerate(NAMES.values()):
        panel = folder / "theirs <i>tables</i>" / str(number)
        write_panel(panel, None, pd.DataFrame({said: [said]}), Text(said, said, said, said, {said: said}))


@dataclass(frozen=True)
class Reader:
    """Somebody at the browser."""

    driver: webdriver.Chrome
    address: str

    def open(self, fragment: str = "") -> None:
        """Open the page anew, with that fragment."""
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)

    def all(self, selector: str) -> list[WebElement]:
        """The elements that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def tasks(self) -> set[str]:
        """The tasks of which something is shown."""
        return {element.get_attribute("data-task") or "" for element in self.all(FILTERED) if element.is_displayed()}

    def scored(self) -> set[str]:
        """The methods whose scores are shown."""
        return {
            row.find_element(By.CSS_SELECTOR, ".method").text
            for row in self.all("tr[data-score]")
            if row.is_displayed()
        }

    def says(self, text: str) -> None:
        """Wait until the status, which screen readers speak, has these words."""
        WebDriverWait(self.driver, 10).until(lambda driver: text in driver.find_element(By.ID, "shown").text)

    def fragment(self) -> str:
        """What the address has after #."""
        return unquote(self.driver.current_url.partition("#")[2])

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self, name: str) -> str | None:
        """An attribute of the element that has the focus."""
        return self.driver.switch_to.active_element.get_attribute(name)

    def tab_to(self, name: str, value: str) -> None:
        """Press Tab until the element with that attribute has the focus."""
        for _ in range(60):
            if self.focused(name) == value:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"no element with {name}={value} is reached by Tab")


def _chromium(*arguments: str, scripts: bool = True) -> webdriver.Chrome:
    binary, driver = (
        os.environ.get(variable) or shutil.which(name)
        for variable, name in (("CHROMIUM", "chromium"), ("CHROMEDRIVER", "chromedriver"))
    )
    if not (binary and driver):
        pytest.fail("no chromium and chromedriver: apt install chromium chromium-driver, or set CHROMIUM, CHROMEDRIVER")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-quic", "--disable-gpu")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *quiet, *offline, *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    found = _chromium("--window-size=1200,900")
    yield found
    found.quit()


@pytest.fixture
def reader(driver: webdriver.Chrome, page: Path) -> Reader:
    driver.get_log("browser"), driver.get_log("performance")  # what earlier tests left
    found = Reader(driver, page.as_uri())
    found.open()
    return found


def test_the_page_opens_without_an_error_or_a_request(reader: Reader) -> None:
    assert reader.driver.title == "MFQL results"
    reader.says("28 of 28 scores shown.")
    assert reader.driver.get_log("browser") == []
    requests = [
        line["message"]
        for line in reader.driver.get_log("performance")
        if "Network.requestWillBeSent" in line["message"]
    ]
    addresses = [part.split('"')[0] for line in requests for part in line.split('"url":"')[1:]]
    assert {address.split(":")[0] for address in addresses} <= {"file", "about", "data"}
    assert {address for address in addresses if address.startswith("file")} == {reader.address}


# The elements that a hostile panel would have added, and the figures that are drawn outside of their box.
STRANGE = """
const box = (one) => one.getBoundingClientRect();
const strange = [...document.querySelectorAll(
  "main script, iframe, object, embed, foreignObject, animate, set, figure style, link," +
  " img:not([src^='data:image/png;base64,']), form[action], [onload], [onerror], [onclick]")]
  .map((one) => one.outerHTML.slice(0, 80));
// The page's own classes of figures are f and a number.
for (const one of document.querySelectorAll("figure svg [class]"))
  if (!/^f\\d+$/.test(one.getAttribute("class"))) strange.push(one.outerHTML.slice(0, 80));
for (const figure of document.querySelectorAll("figure")) {
  const own = box(figure);
  for (const svg of figure.querySelectorAll("svg[role=img], img")) {
    const drawn = box(svg);
    if (drawn.left < own.left - 1 || drawn.right > own.right + 1 || drawn.height > 20 * own.width) strange.push(svg.id);
    const style = getComputedStyle(svg);
    if (style.position !== "static" || (svg.tagName === "svg" && style.overflow !== "hidden")) strange.push("a figure");
  }
  for (const one of figure.querySelectorAll("svg *")) {
    if (getComputedStyle(one).position !== "static") strange.push(one.outerHTML.slice(0, 80));
  }
}
const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
for (const [at, id] of ids.entries()) if (ids.indexOf(id) !== at) strange.push(`the id ${id} twice`);
return strange;
"""
# What lies uppermost in the middle of what is seen of the page, when each of its headings has been scrolled to.
UPPERMOST = """
const covered = [];
for (const heading of document.querySelectorAll("h1, h2")) {
  heading.scrollIntoView({block: "center"});
  const {left, top, height} = heading.getBoundingClientRect();
  const found = document.elementFromPoint(left + 4, top + height / 2);
  if (!heading.contains(found)) covered.push(`${heading.textContent.slice(0, 40)}: ${found?.outerHTML.slice(0, 80)}`);
}
return covered;
"""


def test_panels_names_and_scores_of_somebody_else_are_text_and_shapes_in_their_place(reader: Reader) -> None:
    reader.driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert reader.driver.title == "MFQL results"
    assert reader.driver.execute_script(STRANGE) == []
    assert reader.driver.execute_script(UPPERMOST) == []
    source = reader.driver.page_source
    for told in ("\u202e", "\u2066", "\x1b", "\x07"):
        assert told not in source
    assert "{{ 7 * 7 }}{% raw %}" in source
    shown = reader.driver.find_element(By.TAG_NAME, "body").text
    assert NAMES["markup"] in shown
    assert "theirs \\u202egnp.exe" in shown
    links = {link.get_attribute("href") or "" for link in reader.all("a")}
    assert not [link for link in links if ELSEWHERE in link or link.startswith(("javascript", "http://"))]
    assert len(reader.all("figure svg[role=img]")) > len(reader.all("figure img[src^='data:image/png']")) >= len(UNFIT)
    assert reader.driver.get_log("browser") == []


def test_filters_work_by_mouse_and_combine(reader: Reader) -> None:
    assert reader.tasks() == {*CUBE, SCENE, PEN}
    reader.driver.find_element(By.CSS_SELECTOR, "[name=suite][value=ogbench]").click()
    assert reader.tasks() == {*CUBE, SCENE}
    reader.driver.find_element(By.ID, "filter-task").send_keys("task2")
    assert reader.tasks() == {CUBE[1], SCENE}
    for method in ("fql", "mfql"):
        reader.driver.find_element(By.CSS_SELECTOR, f"[name=method][value={method}]").click()
    assert reader.scored() == {"fql", "mfql"}
    reader.says("10 of 28 scores shown.")
    assert reader.fragment() == "task=task2&suite=ogbench&method=fql&method=mfql"
    reader.driver.find_element(By.CSS_SELECTOR, "[type=reset]").click()
    reader.says("28 of 28 scores shown.")
    assert reader.tasks() == {*CUBE, SCENE, PEN}
    assert reader.fragment() == ""


def test_filters_work_by_keyboard_in_the_order_of_the_page(reader: Reader) -> None:
    reader.press(Keys.TAB)
    assert reader.focused("class") == "skip"
    assert reader.driver.switch_to.active_element.is_displayed()
    reader.tab_to("id", "filter-task")
    reader.press("pen")
    assert reader.tasks() == {PEN}
    reader.press(Keys.ENTER)  # sends nothing
    reader.press(*[Keys.BACKSPACE] * 3)
    reader.tab_to("value", "d4rl-adroit")
    outline = reader.driver.execute_script(
        "return getComputedStyle(document.activeElement.closest('.choice')).outlineStyle"
    )
    assert outline == "solid"
    reader.press(Keys.SPACE)
    assert reader.tasks() == {PEN}
    reader.tab_to("value", "iql")
    reader.press(Keys.SPACE)
    assert reader.scored() == {"iql"}
    assert reader.fragment() == "suite=d4rl-adroit&method=iql"


def test_a_method_is_filtered_in_tables_figures_and_comparisons(reader: Reader) -> None:
    reader.open("#method=fql")
    assert reader.scored() == {"fql"}
    drawn = {line.get_attribute("data-of") for line in reader.all("figure svg [data-of]:not([hidden])")}
    assert drawn == {"1"}  # in alphabetical order
    assert [head.text for head in reader.all(".benchmark thead th") if head.is_displayed() and head.text != "Task"] == [
        "fql"
    ] * 4
    compared = [row.text for row in reader.all("#comparisons ~ details tr[data-of]") if row.is_displayed()]
    assert compared
    assert all("fql" in row for row in compared)
    reader.open("#method=fql&method=bc&method=mfql")
    compared = [row.text for row in reader.all("#comparisons ~ details tr[data-of]") if row.is_displayed()]
    assert compared
    assert not any("iql" in row for row in compared)


def test_alternatives_of_tasks_are_set_apart_by_commas(reader: Reader) -> None:
    reader.open("#task=cube task1, pen")
    assert reader.tasks() == {CUBE[0], PEN}


def test_a_shared_address_restores_its_view_and_its_place(reader: Reader) -> None:
    reader.open("#evidence&suite=ogbench&task=scene&method=mfql")
    reader.says("4 of 28 scores shown.")
    assert reader.tasks() == {SCENE}
    assert reader.driver.execute_script("return scrollY") > 500
    link = next(link for link in reader.all("tr[data-score] a.method") if link.is_displayed())
    target = (link.get_attribute("href") or "").partition("#")[2]
    link.click()
    assert reader.fragment().startswith(f"{target}&")  # a link within the page keeps the filter
    assert reader.tasks() == {SCENE}
    assert reader.driver.find_element(By.ID, target).is_displayed()
    reader.driver.execute_script("location.hash = ''")
    reader.says("28 of 28 scores shown.")


def test_nothing_that_fits_leaves_no_empty_tables_or_headings(reader: Reader) -> None:
    reader.open("#task=nosuchtask")
    reader.says("0 of 28 scores shown.")
    assert not reader.tasks()
    assert not [
        heading.text for heading in reader.all("#scores, #benchmark, #curves, #evidence") if heading.is_displayed()
    ]


def test_every_figure_has_a_caption_and_files_that_exist(reader: Reader, page: Path) -> None:
    shown = reader.all("figure")
    assert len(shown) >= 12
    for figure in shown:
        assert figure.find_element(By.TAG_NAME, "figcaption").text.strip()
        assert figure.find_element(By.TAG_NAME, "h3").text.strip()
        addresses = [link.get_attribute("href") or "" for link in figure.find_elements(By.CSS_SELECTOR, "figcaption a")]
        files = [Path(unquote(address.removeprefix("file://"))) for address in addresses if "#" not in address]
        assert {path.suffix for path in files} & {".csv", ".json"}
        assert all(path.is_file() for path in files), files
        pictures = figure.find_elements(By.CSS_SELECTOR, "svg[role=img], img")
        assert all(picture.get_attribute("aria-label") or picture.get_attribute("alt") for picture in pictures)


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_never_scrolls_sideways(reader: Reader, width: int) -> None:
    metrics = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    reader.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        reader.open()
        reader.driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        inner, outer = reader.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inner <= outer == width
        assert reader.driver.find_element(By.ID, "filter").is_displayed()
    finally:
        reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(reader: Reader, scheme: str) -> None:
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        reader.open()
        poor = reader.driver.execute_script(CONTRAST)
        assert poor == []
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# The texts whose colour stands out from what lies behind them by less than 4.5 to 1.
CONTRAST = """
const light = (colour) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
};
const poor = new Set();
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const style = getComputedStyle(element), svg = element.closest("svg");
  const text = numbers(svg ? style.fill : style.color);
  if (text.length === 4 && text[3] === 0) continue; // the same word as in the row above, for screen readers alone
  const [high, low] = [light(text), light(behind(svg ?? element))].sort((a, b) => b - a);
  const name = `${element.tagName}.${element.getAttribute("class")}: ${element.textContent.slice(0, 30)}`;
  if ((high + 0.05) / (low + 0.05) < 4.5) poor.add(name);
}
return [...poor];
"""


def test_what_can_be_used_has_a_name(reader: Reader) -> None:
    nameless = reader.driver.execute_script(
        "return [...document.querySelectorAll('a, button, input, summary, [role=region], [tabindex]')].filter(one =>"
        " !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length || document.getElementById("
        " one.getAttribute('aria-labelledby')))).map(one => one.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    assert reader.driver.execute_script("return document.querySelector('[role=status]').ariaLive") == "polite"


def test_it_prints_on_paper_without_what_only_a_screen_needs(reader: Reader) -> None:
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not reader.driver.find_element(By.ID, "filter-task").is_displayed()
        assert not reader.driver.find_element(By.TAG_NAME, "nav").is_displayed()
        assert reader.driver.find_element(By.ID, "answer").is_displayed()
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_javascript_everything_is_there(page: Path) -> None:
    plain = _chromium("--window-size=1200,900", scripts=False)
    try:
        found = Reader(plain, page.as_uri())
        found.open("#method=fql")
        assert not plain.find_element(By.ID, "filter").is_displayed()
        assert found.tasks() == {*CUBE, SCENE, PEN}
        assert found.scored() == set(METHODS)
        assert not found.all("[data-task][hidden], [data-of][hidden]")
    finally:
        plain.quit()
