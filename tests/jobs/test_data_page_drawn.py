"""The data report's page in a real browser: nothing runs, nothing runs over, on a narrow screen either.
`pytest tests/jobs/test_data_page_drawn.py` (needs Chromium and its driver)"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from jobs.data.row_sample import RowSampling
from jobs.judging.data_report import DATA_PAGE, Counted
from jobs.report.data_page import data_report_files
from serve.tasks.classification import Classification
from tests.jobs.test_data_report import ODD, table
from tests.jobs.tiny import MESSAGES
from tests.serve.test_page import FLAGS, MISSING

LONG = "a label whose name is longer than any column " * 2
OVERFLOWS = """
return [...document.querySelectorAll('q, figure, h1, .figure, .note')]
  .filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.textContent.slice(0, 40))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in paths.items():
        assert path is not None, MISSING.format(name=name)
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(paths["chromedriver"])))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of messages in two languages, and texts that would do harm on a careless page."""
    labels = {"ham": "ham", "spam": LONG}
    rows = [*((text, labels[label]) for text, label in MESSAGES), *((text, "ham") for text in ODD)]
    sampling = RowSampling.of(len(rows), ["text"], ["label"])
    near = [{"dropped": ODD[4], "kept": ODD[5], "similarity": 0.9}]
    counted = Counted(
        {"rows_read": 90, "rows_duplicate": 3, "train_rows": 87}, {"near_duplicates": near}, {"train": 87},
        {"train": {"ham": 47, LONG: 40}},
    )  # fmt: skip
    file = tmp_path_factory.mktemp("page") / DATA_PAGE
    spec = Classification(labels=tuple(sorted(labels.values())))
    file.write_text(data_report_files(counted, [sampling.part(table(rows))], ["text"], spec)[DATA_PAGE], encoding="utf-8")
    return file


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_runs_and_nothing_runs_over(browser: webdriver.Chrome, page: Path, width: int) -> None:
    shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert browser.execute_script(OVERFLOWS) == []
    assert browser.execute_script("return [...document.scripts, ...document.images].length") == 0
    assert browser.get_log("browser") == []


def test_dark_is_dark(browser: webdriver.Chrome, page: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(page.as_uri())
        colours = "return ['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
        grounds.append([int(part) for colour in browser.execute_script(colours) for part in colour[4:-1].split(",")])
    (*light, _, _, light_ink), (*dark, _, _, dark_ink) = grounds
    assert light[0] > light_ink and dark[0] < dark_ink and light[0] > dark[0]
