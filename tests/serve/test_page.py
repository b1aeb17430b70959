"""The page in real Chromium: what it shows, by keyboard alone, on a phone, in both languages, in the dark."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from transformers import BertConfig, BertForSequenceClassification

from jobs.tasks import learning_of
from serve import tasks
from serve.engines.card import read_card, write_card
from serve.keys import add as add_key
from serve.page import PAGE_DIRECTORY
from serve.settings import FeedbackSettings
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.tasks.ordinal import Ordinal
from serve.tasks.protocol import Task
from serve.tasks.regression import Regression
from serve.tasks.several import Head, Several
from serve.tasks.shared.decisions import NoneOfThese
from tests.serve.faces import local_model, serving
from tests.serve.tiny_model import LABELS, export_onnx, publish_tiny
from tests.serve.windowed import publish_windowed

MISSING = (
    "the page's tests need Chromium and its driver, and this machine has no {name}: "
    "apt-get install chromium chromium-driver, or run the other tests with --ignore tests/serve/test_page.py"
)
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update")
MORE_FLAGS = ("disable-sync", "no-first-run", "lang=en-US")
EXPECTED = re.compile("status of (401|422)")
TEXT = "Win a prize <b>now</b> 🙂 这部"


@pytest.fixture(scope="module")
def page(model_directory: Path) -> Iterator[str]:
    winner, teacher = local_model(model_directory, "tiny", "onnx"), local_model(model_directory, "teacher", "torch")
    with serving({"tiny": winner, "teacher": teacher}, winner) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in paths.items():
        assert path is not None, MISSING.format(name=name)
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    for flag in (*FLAGS, *MORE_FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(paths["chromedriver"])))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def _fresh(browser: webdriver.Chrome, page: str) -> Iterator[None]:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(f"{page}/")
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    yield
    complaints = [entry["message"] for entry in browser.get_log("browser") if not EXPECTED.search(entry["message"])]
    assert not complaints, "the browser complained (of the content security policy, a missing file, a script)"


def ask(browser: webdriver.Chrome, text: str) -> None:
    field = browser.find_element(By.ID, "text")
    browser.execute_script("arguments[0].value = arguments[1]", field, text)  # The driver cannot type emoji.
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    WebDriverWait(browser, 30).until(lambda driver: driver.find_element(By.ID, "explanation").is_displayed())


def shown(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def fields(browser: webdriver.Chrome) -> list[str]:
    """The names of the texts that are asked for."""
    return [field.accessible_name for field in browser.find_elements(By.TAG_NAME, "textarea")]


def test_answers_bars_times_and_coloured_words(browser: webdriver.Chrome, page: str) -> None:
    ask(browser, TEXT)
    said = requests.post(f"{page}/v1/predict", json={"inputs": TEXT}, timeout=30).json()["answers"][0]
    assert shown(browser, ".card h2") == ["tiny", "teacher"]
    assert shown(browser, ".card:first-child .name") == [one["label"] for one in said["probabilities"]]
    assert shown(browser, ".card .label") == [said["label"]] * 2
    widths = [bar.size["width"] for bar in browser.find_elements(By.CSS_SELECTOR, ".card:first-child .fill")]
    whole = browser.find_element(By.CSS_SELECTOR, ".card:first-child .bar").size["width"]
    assert [width / whole for width in widths] == pytest.approx(
        [one["probability"] for one in said["probabilities"]], abs=0.01
    )
    assert all("ms" in line for line in shown(browser, ".card p:last-child"))
    explained = requests.post(f"{page}/v1/explain", json={"inputs": TEXT}, timeout=30).json()["words"]
    assert browser.find_element(By.ID, "words").text == TEXT, "the text is shown as it was typed, and never as HTML"
    assert shown(browser, "#words .word") == [word["text"] for word in explained]
    against = [word["text"] for word in explained if word["attribution"] < 0]
    assert shown(browser, "#words .word.against") == against
    strongest = max(explained, key=lambda word: abs(word["attribution"]))
    browser.find_element(By.TAG_NAME, "summary").click()
    assert shown(browser, "tbody th")[0] == strongest["text"]
    colours = {
        word.value_of_css_property("background-color") for word in browser.find_elements(By.CSS_SELECTOR, "#words .word")
    }
    assert len(colours) > 2


def test_by_keyboard_alone_and_for_a_screen_reader(browser: webdriver.Chrome) -> None:
    seen = []
    for _ in range(6):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        seen.append(active.accessible_name)
        if active.accessible_name == "Your text":
            active.send_keys("Win a prize")
        if active.accessible_name == "Ask":
            assert active.value_of_css_property("outline-style") != "none", "the focus is to be seen"
            active.send_keys(Keys.SPACE)
            break
    assert seen == ["To the text", "English", "中文", "Your text", "Ask"]
    status = browser.find_element(By.ID, "status")
    WebDriverWait(browser, 30).until(lambda _: "teacher" in str(status.get_property("textContent")))
    assert status.get_attribute("aria-live") == "polite"
    named = browser.find_elements(By.CSS_SELECTOR, "main textarea, main button, section, article, table")
    assert all(field.accessible_name for field in named if field.is_displayed())


def test_chinese_is_chosen_and_remembered(browser: webdriver.Chrome) -> None:
    ask(browser, "这部电影很好看")
    browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "zh-Hans"
    assert browser.find_element(By.ID, "send").text == "提问"
    assert shown(browser, "#words .word") == list("这部电影很好看")
    browser.refresh()
    assert browser.find_element(By.CSS_SELECTOR, "label[for=text]").text == "输入文本"


def test_every_text_is_there_in_both_languages(browser: webdriver.Chrome, page: str) -> None:
    script = "const done = arguments[0]; import('./page/strings.js').then((module) => done(module.STRINGS))"
    strings: dict[str, Any] = browser.execute_async_script(script)
    assert strings["en"].keys() == strings["zh"].keys()
    assert all(text for texts in strings.values() for text in texts.values())
    used = browser.execute_script("return [...document.querySelectorAll('[data-text]')].map((node) => node.dataset.text)")
    assert set(used) <= strings["en"].keys()


def test_a_problem_is_told_beside_the_field(browser: webdriver.Chrome) -> None:
    browser.find_element(By.ID, "send").click()
    problem = browser.find_element(By.ID, "problem")
    assert problem.text == "Type a text first."
    assert browser.switch_to.active_element == browser.find_element(By.ID, "text")
    browser.execute_script("arguments[0].value = 'a'.repeat(30000)", browser.find_element(By.ID, "text"))
    browser.find_element(By.ID, "send").click()
    WebDriverWait(browser, 30).until(lambda _: "20000" in problem.text.replace(",", ""))


def test_a_service_with_keys_asks_for_one(browser: webdriver.Chrome, model_directory: Path, tmp_path: Path) -> None:
    winner, keys = local_model(model_directory, "tiny", "onnx"), str(tmp_path / "keys.json")
    key = add_key(keys, "page", None)
    with serving({"tiny": winner}, winner, keys) as url:
        browser.get(f"{url}/")
        field = browser.find_element(By.ID, "key")
        WebDriverWait(browser, 30).until(lambda _: field.is_displayed())
        assert browser.find_element(By.ID, "problem").text == "This service asks for an API key."
        assert browser.switch_to.active_element == field
        field.send_keys(key)
        ask(browser, "Win a prize")
        assert shown(browser, ".card h2") == ["tiny"]


def test_a_model_of_pairs_has_a_field_for_each_text(browser: webdriver.Chrome, model_directory: Path, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "pairs", pairs=True)
    winner, teacher = (local_model(tmp_path / "pairs", name, kind) for name, kind in (("pairs", "onnx"), ("teacher", "torch")))
    single = local_model(model_directory, "single", "onnx")
    given = {"text": "Win a <b>prize</b> 🙂", "pair": "这部 film"}
    with serving({"pairs": winner, "single": single, "teacher": teacher}, winner) as url:
        browser.get(f"{url}/")
        second = WebDriverWait(browser, 30).until(lambda driver: driver.find_element(By.ID, "text-pair"))
        assert [field.accessible_name for field in browser.find_elements(By.TAG_NAME, "textarea")] == [
            "First text",
            "Second text",
        ]
        browser.execute_script("arguments[0].value = arguments[1]", browser.find_element(By.ID, "text"), given["text"])
        browser.find_element(By.ID, "send").click()
        assert browser.find_element(By.ID, "problem").text == "“Second text” is empty; type a text."
        assert browser.switch_to.active_element == second
        browser.execute_script("arguments[0].value = arguments[1]", second, given["pair"])
        second.send_keys(Keys.CONTROL, Keys.ENTER)
        WebDriverWait(browser, 30).until(lambda driver: driver.find_element(By.ID, "explanation").is_displayed())
        said = requests.post(f"{url}/v1/predict", json={"inputs": given}, timeout=30).json()["answers"][0]
        explained = requests.post(f"{url}/v1/explain", json={"inputs": given}, timeout=30).json()["words"]
    assert shown(browser, ".card h2") == ["pairs", "teacher"], "what takes another request is not asked"
    assert shown(browser, ".card .label") == [said["label"]] * 2
    assert shown(browser, "#words h3") == ["First text", "Second text"]
    assert shown(browser, "#words .words") == list(given.values())
    for place, field in enumerate(given):
        words = browser.find_elements(By.CSS_SELECTOR, "#words .words")[place].find_elements(By.CLASS_NAME, "word")
        assert [word.text for word in words] == [word["text"] for word in explained if word["field"] == field]
    browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
    assert shown(browser, "#fields label") == shown(browser, "#words h3") == ["第一段文本", "第二段文本"]


def test_an_answer_that_is_a_number_is_shown_as_one(
    browser: webdriver.Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**tasks.kinds(), "windowed": "tests.serve.windowed"}
    monkeypatch.setattr(tasks, "kinds", lambda: known)
    publish_windowed(tmp_path / "windowed")
    model = local_model(tmp_path / "windowed", "finder", "onnx")
    with serving({"finder": model}, model) as url:
        browser.get(f"{url}/")
        context = WebDriverWait(browser, 30).until(lambda driver: driver.find_element(By.ID, "text-context"))
        assert fields(browser) == ["question", "context"]
        browser.find_element(By.ID, "text").send_keys("a prize")
        context.send_keys("win a prize now", Keys.CONTROL, Keys.ENTER)
        WebDriverWait(browser, 30).until(lambda driver: driver.find_element(By.ID, "explanation").is_displayed())
        inputs = {"question": "a prize", "context": "win a prize now"}
        said = requests.post(f"{url}/v1/predict", json={"inputs": inputs}, timeout=30).json()["answers"][0]
    (value,) = shown(browser, ".card .label")
    assert float(value) == pytest.approx(said["value"], rel=1e-3)
    assert said["text"] in shown(browser, ".card p")
    assert browser.find_element(By.ID, "explanationTitle").text == f"What the answer “{value}” rests on"
    assert value in str(browser.find_element(By.ID, "status").get_property("textContent"))
    browser.find_element(By.TAG_NAME, "summary").click()
    assert shown(browser, "thead th") == ["Word", "Effect", ""], "there is no probability without a word"
    assert all(len(row.find_elements(By.TAG_NAME, "td")) == 1 for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr"))


def test_an_answer_of_several_labels_is_shown_as_a_list(browser: webdriver.Chrome, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "several")
    card = read_card(tmp_path / "several")
    given, none = ({f"threshold {label}": least for label in LABELS} for least in (0.0001, 0.9999))
    variants = {name: one.model_copy(update={"fitted": given}) for name, one in card.variants.items()}
    variants["torch"] = variants["torch"].model_copy(update={"fitted": none})
    write_card(tmp_path / "several", card.model_copy(update={"task": MultiLabel(labels=LABELS), "variants": variants}))
    models = {name: local_model(tmp_path / "several", name, kind) for name, kind in {"all": "onnx", "none": "torch"}.items()}
    with serving(models, models["all"]) as url:
        browser.get(f"{url}/")
        ask(browser, "Win a prize now")
        (said,) = requests.post(f"{url}/v1/predict", json={"inputs": "Win a prize now"}, timeout=30).json()["answers"]
        assert sorted(said["labels"]) == sorted(LABELS) and said["labels"] == [one["label"] for one in said["probabilities"]]
        assert shown(browser, ".card .label") == [", ".join(said["labels"]), "no label"]
        assert shown(browser, ".card .bars .name") == said["labels"] * 2, "probabilities are what they are, given or not"
        assert browser.find_element(By.ID, "explanationTitle").text == f"What the answer “{said['labels'][0]}” rests on"
        assert "none says: no label." in str(browser.find_element(By.ID, "status").get_property("textContent"))
        browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
        assert shown(browser, ".card .label") == ["、".join(said["labels"]), "没有标签"]


def test_a_person_says_what_is_right_by_keyboard_and_it_is_kept(
    browser: webdriver.Chrome, model_directory: Path, tmp_path: Path
) -> None:
    publish_tiny(tmp_path / "several")
    card = read_card(tmp_path / "several")
    write_card(tmp_path / "several", card.model_copy(update={"task": MultiLabel(labels=LABELS)}))
    models = {
        "one": local_model(model_directory, "one", "onnx"),
        "several": local_model(tmp_path / "several", "several", "onnx"),
    }
    with serving(models, models["one"], feedback=FeedbackSettings(place=str(tmp_path / "said"))) as url:
        browser.get(f"{url}/")
        ask(browser, "Win a prize now")
        (given,) = requests.post(f"{url}/v1/predict", json={"inputs": "Win a prize now"}, timeout=30).json()["answers"]
        first, second = browser.find_elements(By.CLASS_NAME, "judge")
        assert first.accessible_name == "Whether the answer of one is right"
        first.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        _told(browser, first, f"Thank you. Kept as right: {given['label']}.")
        assert kept(tmp_path) == {"one": {"label": given["label"]}}
        first.find_elements(By.TAG_NAME, "button")[1].send_keys(Keys.SPACE)
        choice = browser.switch_to.active_element
        assert (choice.tag_name, choice.accessible_name) == ("select", "It should be")
        others = [label for label in LABELS if label != given["label"]]
        assert [option.text for option in choice.find_elements(By.TAG_NAME, "option")] == others
        choice.send_keys(Keys.ARROW_DOWN, Keys.TAB)
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        _told(browser, first, f"Thank you. Kept as right: {others[1]}.")
        assert kept(tmp_path) == {"one": {"label": others[1]}}
        second.find_elements(By.TAG_NAME, "button")[1].click()
        for box in second.find_elements(By.CSS_SELECTOR, "input:checked"):
            box.send_keys(Keys.SPACE)
        for label in ("其他", "ham"):
            second.find_element(By.CSS_SELECTOR, f"input[value='{label}']").send_keys(Keys.SPACE)
        assert shown(browser, ".correction legend") == ["It should be"]
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        second.find_element(By.CSS_SELECTOR, "[type=submit]").click()
        _told(browser, second, "Thank you. Kept as right: ham, 其他.")
        assert kept(tmp_path)["several"] == {"labels": ["ham", "其他"]}
        browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
        again = browser.find_elements(By.CLASS_NAME, "judge")
        assert [one.find_element(By.TAG_NAME, "p").text for one in again][1] == "谢谢！已记录正确的回答：ham、其他。"


def _told(browser: webdriver.Chrome, judge: WebElement, text: str) -> None:
    WebDriverWait(browser, 30).until(lambda _: judge.find_element(By.TAG_NAME, "p").text == text)


def kept(place: Path) -> dict[str, dict[str, Any]]:
    """What is kept as right, by model."""
    lines = [line for file in (place / "said" / "rows").iterdir() for line in file.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert {row.pop("text") for row in rows} == {"Win a prize now"}
    found = {row.pop("feedback")["model"]["name"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_where_nothing_is_taken_nothing_is_asked(browser: webdriver.Chrome) -> None:
    ask(browser, "Win a prize now")
    assert not browser.find_elements(By.CLASS_NAME, "judge")


def test_a_number_is_shown_in_its_units_with_what_moves_it(browser: webdriver.Chrome, tmp_path: Path) -> None:
    publish_with_outputs(tmp_path / "numbers", Regression(mean=1200.0, deviation=300.0, least=0.0))
    model = local_model(tmp_path / "numbers", "price", "onnx")
    with serving({"price": model}, model) as url:
        browser.get(f"{url}/")
        asked = "Bring the keys to the station"
        ask(browser, asked)
        (said,) = requests.post(f"{url}/v1/predict", json={"inputs": asked}, timeout=30).json()["answers"]
        (value,) = shown(browser, ".card .label")
        assert float(value.replace(",", "")) == pytest.approx(said["value"], abs=1) and said["value"] > 100
        assert f"price says {value}." in str(browser.find_element(By.ID, "status").get_property("textContent"))
        assert browser.find_element(By.ID, "explanationTitle").text == f"What the answer “{value}” rests on"
        browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
        assert f"price 的回答是 {value}。" in str(browser.find_element(By.ID, "status").get_property("textContent"))


def test_labels_with_an_order_are_shown_with_their_probabilities(browser: webdriver.Chrome, tmp_path: Path) -> None:
    grades = ("差", "中等", "好")
    publish_with_outputs(tmp_path / "grades", Ordinal(labels=grades))
    model = local_model(tmp_path / "grades", "点评", "onnx")
    with serving({"点评": model}, model) as url:
        browser.get(f"{url}/")
        asked = "质量太差，用了一天就坏了。"
        ask(browser, asked)
        (said,) = requests.post(f"{url}/v1/predict", json={"inputs": asked}, timeout=30).json()["answers"]
        assert shown(browser, ".card .label") == [said["label"]]
        assert shown(browser, ".card .bars .name") == [one["label"] for one in said["probabilities"]]
        assert sorted(shown(browser, ".card .bars .name")) == sorted(grades)
        assert shown(browser, "#words .word")[:2] == ["质", "量"], "characters of Chinese each"
        browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
        assert f"点评 的回答是 {said['label']}，概率" in str(browser.find_element(By.ID, "status").get_property("textContent"))


def publish_with_outputs(directory: Path, task: Task) -> None:
    """The tiny model with a head of as many outputs as this task has, whose card is of it."""
    publish_tiny(directory)
    config = BertConfig.from_pretrained(directory)
    for key, value in learning_of(task.kind).head(task).items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(directory)
    shutil.rmtree(directory / "onnx")
    export_onnx(model, directory / "onnx" / "model.onnx")
    write_card(directory, read_card(directory).model_copy(update={"task": task}))


def test_several_answers_are_shown_each_in_its_own_view(browser: webdriver.Chrome, tmp_path: Path) -> None:
    topic, tags = Classification(labels=LABELS), MultiLabel(labels=("cheap", "fast"))
    publish_tiny(tmp_path / "heads", task=Several(heads=(Head(name="话题", task=topic), Head(name="tags", task=tags))))
    model = local_model(tmp_path / "heads", "heads", "onnx")
    with serving({"heads": model}, model) as url:
        browser.get(f"{url}/")
        ask(browser, TEXT)
        (said,) = requests.post(f"{url}/v1/predict", json={"inputs": TEXT}, timeout=30).json()["answers"]
        assert list(said) == ["话题", "tags"]
        assert shown(browser, ".card .head h3") == ["话题", "tags"]
        assert shown(browser, ".card .label") == [said["话题"]["label"], ", ".join(said["tags"]["labels"]) or "no label"]
        first, second = browser.find_elements(By.CSS_SELECTOR, ".card .head")
        for part, answer in ((first, said["话题"]), (second, said["tags"])):
            names = [bar.text for bar in part.find_elements(By.CLASS_NAME, "name")]
            assert names == [one["label"] for one in answer["probabilities"]]
        explained = requests.post(f"{url}/v1/explain", json={"inputs": TEXT}, timeout=30).json()
        title = f"What the answer “话题: {explained['whole']['label']}” rests on"
        assert explained["head"] == "话题" and browser.find_element(By.ID, "explanationTitle").text == title
        assert shown(browser, "#words .word") == [word["text"] for word in explained["words"]]
        status = str(browser.find_element(By.ID, "status").get_property("textContent"))
        assert f"heads (话题) says {said['话题']['label']}" in status and "heads (tags) says: " in status
        browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
        assert "“话题：" in browser.find_element(By.ID, "explanationTitle").text
        assert "heads（话题） 的回答是" in str(browser.find_element(By.ID, "status").get_property("textContent"))


def test_an_answer_that_is_none_of_the_labels_says_so(browser: webdriver.Chrome, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "scoped")
    card = read_card(tmp_path / "scoped")
    fitted = {"onnx": {"threshold none of these": 0.0}, "torch": {"threshold none of these": 1.0}}
    variants = {name: one.model_copy(update={"fitted": fitted[name]}) for name, one in card.variants.items()}
    scoped = Classification(labels=LABELS, none=NoneOfThese())
    write_card(tmp_path / "scoped", card.model_copy(update={"task": scoped, "variants": variants}))
    models = {name: local_model(tmp_path / "scoped", name, kind) for name, kind in {"all": "onnx", "none": "torch"}.items()}
    with serving(models, models["all"]) as url:
        browser.get(f"{url}/")
        ask(browser, "Win a prize now")
        asked = {"inputs": "Win a prize now", "model": "none"}
        (said,) = requests.post(f"{url}/v1/predict", json=asked, timeout=30).json()["answers"]
        assert (said["label"], said["in_scope"]) == ("none of these", False)
        likeliest = said["probabilities"][0]["label"]
        assert shown(browser, ".card .label") == [likeliest, "none of these"]
        assert [line for line in shown(browser, ".card .quiet") if "enough" in line] == ["No label is probable enough:"]
        told = str(browser.find_element(By.ID, "status").get_property("textContent"))
        assert f"all says {likeliest}" in told and "none says none of these; the most probable label has" in told
        assert browser.find_element(By.ID, "explanationTitle").text == f"What the answer “{likeliest}” rests on"
        browser.find_element(By.CSS_SELECTOR, "[data-language=zh]").click()
        assert "没有一个标签足够可能：" in shown(browser, ".card .quiet")


@pytest.mark.parametrize("width", [320, 390, 1000])
def test_nothing_is_wider_than_the_screen(browser: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    ask(browser, "Win" * 200 + " a prize now")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    tops = [card.location["y"] for card in browser.find_elements(By.CLASS_NAME, "card")]
    assert (tops[0] == tops[1]) == (width == 1000), "side by side where there is room, else one below the other"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ask(browser, "Win a prize now")
    for selector, ground in [("h1", "body"), (".quiet", "body"), (".card .quiet", ".card"), ("#send", "#send"), ("a", "body")]:
        text, behind = browser.find_element(By.CSS_SELECTOR, selector), browser.find_element(By.CSS_SELECTOR, ground)
        colours = text.value_of_css_property("color"), behind.value_of_css_property("background-color")
        assert contrast(*colours) >= 4.5, (selector, colours)
    assert browser.find_element(By.CLASS_NAME, "fill").value_of_css_property("transition-duration") in ("0s", "")


def contrast(first: str, second: str) -> float:
    """Of two CSS colours, after WCAG 2."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_asks_nothing_of_another_host_and_has_no_inline_script(page: str) -> None:
    html = requests.get(f"{page}/", timeout=30)
    policy = html.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for file in PAGE_DIRECTORY.iterdir():
        if file.suffix in (".html", ".css", ".js"):
            served = html if file.name == "index.html" else requests.get(f"{page}/page/{file.name}", timeout=30)
            assert served.text == file.read_text()
            assert "://" not in served.text
    assert requests.get(f"{page}/page/../__init__.py", timeout=30).status_code == 404
