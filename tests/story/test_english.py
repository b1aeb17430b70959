"""The whole road on real Ray jobs: raw text → HTTP answers; then a second run, a changed recipe, a refusal."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from cluster.connection.connect import Cluster
from cluster.ray_private import serve_rest_client
from cluster.store import registry
from cluster.store.artifact import Artifact
from jobs.core.places import locate
from jobs.core.recipe import Recipe, load_recipe
from jobs.running.events import RunEnded, RunStarted, StepChanged, finite, in_words, read_event
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import read_card
from serve.engines.processor import kind
from tests.story.running import ROOT, Ran, run_job
from tests.story.tiny_world import recipe, write_recipe, write_world

MODELS = ("teacher", "student", "undistilled", "small")


@dataclass
class Story:
    """One finished run of the tiny recipe."""

    directory: Path
    paths: dict[str, str]
    file: str
    storage: str
    ran: Ran

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.file)

    def artifact(self, step: str) -> Artifact:
        found = locate(self.recipe, self.storage)[step].artifact
        assert found is not None, f"{step} has no artifact"
        return found


@pytest.fixture(scope="module")
def story(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("english")
    paths = write_world(directory)
    file = write_recipe(directory / "tiny.yaml", recipe(paths))
    storage = str(directory / "runs")
    command = ["jobs.pipeline", file, "--storage", storage, "--events", str(directory / "events.jsonl")]
    yield Story(directory, paths, file, storage, run_job(serving_cluster, *command))


def test_the_pipeline_ends_well_and_says_what_won(story: Story) -> None:
    assert story.ran.exit_code == 0, story.ran.text
    summary = story.ran.summary
    row = next(row for row in json.loads(Path(story.artifact("judged").file("report.json")).read_text())["rows"])
    assert row["candidate"] == "teacher"
    assert summary["teacher_score"] == row["score"]
    assert summary["teacher_score"] > 0.95, "the tiny task is easy"
    assert summary["winner_score"] >= 0.9 * summary["teacher_score"]
    assert summary["winner"].split(":")[0] == "floor", (
        "each label has words of its own: a linear model is as good, and the fastest"
    )
    assert summary["floor_score"] > 0.95 and summary["against_floor"] in story.ran.text
    assert summary["against_floor"] in Path(summary["report"]).read_text().lower()
    assert list(story.recipe.steps).index("floor") == 1 + list(story.recipe.steps).index("messages"), (
        "told before all else is made"
    )
    for step in story.recipe.steps:
        assert story.ran.state(step)[-1] == "done", step


def test_its_events_say_what_its_log_says(story: Story) -> None:
    lines = (story.directory / "events.jsonl").read_text().splitlines()
    started, *changes, ended = [read_event(line) for line in lines]
    steps = [*story.recipe.steps]
    assert isinstance(started, RunStarted) and [step.step for step in started.steps] == steps
    assert isinstance(ended, RunEnded) and (ended.exit_code, ended.summary) == (0, story.ran.summary)
    changed = [event for event in changes if isinstance(event, StepChanged)]
    assert [in_words(event) for event in changed] == [
        line for line in story.ran.lines if line.startswith(tuple(f"[{name}] " for name in steps))
    ]
    assert len(changed) == len(changes) and [event.time for event in changed] == sorted(event.time for event in changed)
    for name in steps:
        own = [event for event in changed if event.step == name]
        assert (own[0].state, own[-1].state) == ("submitted", "done"), name
        assert {event.state for event in own[1:-1]} <= {"waiting", "running"} and len({event.job for event in own}) == 1
        artifact = story.artifact(name)
        assert (own[-1].uri, own[-1].figures) == (artifact.uri, finite(artifact.manifest.metrics))
        assert all(event.uri is None for event in own[:-1])
    running = [event.figures for event in changed if event.state == "running"]
    assert any(figures.get("steps") for figures in running), "how far it is, in numbers"


def test_the_winner_answers_over_http(story: Story) -> None:
    assert len(story.ran.summary["answers"]) == 4
    reply = requests.post(
        story.ran.summary["url"], json={"inputs": ["claim your cash bonus 7", "see you at lunch 3"]}, timeout=30
    )
    assert reply.status_code == 200
    assert [answer["label"] for answer in reply.json()["answers"]] == ["spam", "ham"]
    fingerprint = reply.json()["model"]["fingerprint"]
    assert fingerprint == registry.read(story.storage, "tiny/production").target.fingerprint
    assert fingerprint == registry.read(story.storage, "tiny/winner").target.fingerprint
    assert fingerprint == story.artifact("floor").fingerprint, "the linear model answers, explains and is rolled back like any"


def test_the_service_knows_on_which_kind_of_processor_it_was_judged(story: Story) -> None:
    ready = requests.get(story.ran.summary["url"].replace("/v1/predict", "/readyz"), timeout=30).json()
    assert ready["judged_on"] == kind() and ready["warning"] is None
    targets = [registry.read(story.storage, f"tiny/{name}").target for name in ("winner", "production")]
    assert [target.judged_on for target in targets] == [kind(), kind()]


def test_what_is_sent_is_cleaned_as_the_training_texts_were(story: Story) -> None:
    assert {read_card(story.artifact(step).local()).cleaning for step in (*MODELS, "floor")} == {Cleaning(strip_tags=True)}
    clean, sent = "claim your cash bonus 7", "<p>claim\u200b your <b>cash</b> bonus 7</p>"
    reply = requests.post(story.ran.summary["url"], json={"inputs": [clean, sent]}, timeout=30).json()
    assert reply["answers"][0] == reply["answers"][1]
    url = story.ran.summary["url"].replace("predict", "explain")
    words = requests.post(url, json={"inputs": sent}, timeout=30).json()["words"]
    assert [word["text"] for word in words] == ["claim", "your", "cash", "bonus", "7"]
    assert [sent[word["start"] : word["end"]] for word in words] == [word["text"] for word in words]


@pytest.mark.parametrize("step", MODELS)
def test_stock_transformers_loads_each_model(story: Story, step: str) -> None:
    directory = story.artifact(step).uri
    model, told = AutoModelForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    tokens = AutoTokenizer.from_pretrained(directory)("claim your cash bonus", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 2)
    assert model.config.id2label == {0: "ham", 1: "spam"}


def test_another_config_a_rollback_and_serve_deploy_fail_no_request(story: Story, serving_cluster: Cluster) -> None:
    storage = ["--storage", story.storage]
    file = story.artifact("served").file("serve.yaml")
    first = registry.read(story.storage, "tiny/production")
    seen: list[int] = []
    rolled = threading.Event()
    client = threading.Thread(target=_ask_until, args=(rolled, story.ran.summary["url"], seen))
    client.start()
    try:
        ran = run_job(serving_cluster, "jobs.deploy", story.file, "threads=2", "cascade=true", *storage)
        assert ran.exit_code == 0, ran.text
        listed = requests.get(story.ran.summary["url"].replace("predict", "models"), timeout=60).json()["models"]
        assert [one["name"] for one in listed] == ["tiny", "teacher"]
        for of, version in ((story.file, 3), ("tiny/production", 4)):
            ran = run_job(serving_cluster, "jobs.deploy", of, "--rollback", *storage)
            assert ran.exit_code == 0, ran.text
            assert f"tiny/production: version {version} is " in ran.text
        assert _runs(serving_cluster) == (2, "RUNNING")
        command = [str(Path(sys.executable).parent / "serve"), "deploy", file, "--address", serving_cluster.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **serving_cluster.environment})
        assert done.returncode == 0, done.stdout + done.stderr
        deadline = time.monotonic() + 120
        while _runs(serving_cluster) != (1, "RUNNING"):
            assert time.monotonic() < deadline, _runs(serving_cluster)
            time.sleep(0.5)
        assert requests.post(story.ran.summary["url"], json={"inputs": "a"}, timeout=60).status_code == 200
    finally:
        rolled.set()
        client.join()
    history = registry.read(story.storage, "tiny/production").history[len(first.history) - 1 :]
    assert [target.config["args"]["threads"] for target in history if target.config] == [1, 2, 1, 2]
    assert history[2].config == first.target.config
    assert len(seen) > 50
    assert set(seen) == {200}


def test_the_pruned_model_really_shrank(story: Story) -> None:
    student, small = story.artifact("student").manifest, story.artifact("small").manifest
    removed, hidden, layers = 64, 32, 1  # half of 4 × 32 neurons
    assert student.metrics["parameters"] - small.metrics["parameters"] == layers * removed * (2 * hidden + 1)


def test_the_base_is_a_masked_language_model(story: Story) -> None:
    _, told = AutoModelForMaskedLM.from_pretrained(story.artifact("base").uri, output_loading_info=True)
    assert not told["missing_keys"]
    assert story.artifact("base").manifest.metrics["steps"] == 20


def test_the_report_and_the_lineage_are_there(story: Story) -> None:
    page = Path(story.ran.summary["report"]).read_text()
    assert story.ran.summary["winner"] in page and "A cascade" in page
    for key in ("teacher", "floor"):
        assert story.artifact("judged").manifest.parents[key][0].uri == story.artifact(key).uri
    assert "floor from messages" in page and registry.verdicts(story.storage, "tiny/winner")[0]["against_floor"]
    assert len(story.artifact("student").manifest.details["trials"]) == 2
    assert not list(Path(story.storage, ".scratch", "tiny").iterdir()), "trials and checkpoints go when a step is done"


def test_nothing_of_the_run_is_garbage(story: Story) -> None:
    command = [sys.executable, "-m", "cluster.gc", story.storage]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and ran.stdout.startswith("nothing to delete; "), ran.stdout + ran.stderr


def test_a_second_run_finds_everything_complete(story: Story, serving_cluster: Cluster) -> None:
    ran = run_job(serving_cluster, "jobs.pipeline", story.file, "--storage", story.storage)
    assert ran.exit_code == 0, ran.text
    assert ran.summary["winner"] == story.ran.summary["winner"]
    for step in story.recipe.steps:
        assert ran.state(step)[-1] == ("done" if step == "served" else "complete"), step


def test_a_changed_temperature_runs_only_what_follows(story: Story) -> None:
    command = [sys.executable, "-m", "jobs.pipeline", story.file, "steps.student.temperature={uniform: [1, 8]}"]
    done = subprocess.run(
        [*command, "--storage", story.storage, "--plan"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=_no_cluster(),
    )
    plan = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()[2:3] in (["run"], ["skip"])}
    running = [step for step, line in plan.items() if line.split()[2] == "run"]
    assert running == ["student", "small", "judged", "winner", "served"]
    assert "temperature.uniform [1, 4] → [1, 8]" in plan["student"]
    assert "new parent student" in plan["small"]


def test_no_candidate_within_the_budget_is_refused_by_figures(story: Story, serving_cluster: Cluster) -> None:
    before = registry.read(story.storage, "tiny/winner")
    ran = run_job(serving_cluster, "jobs.pipeline", story.file, "steps.winner.minimum_kept=1.9", "--storage", story.storage)
    assert ran.exit_code == 3, ran.text
    assert "190.0% are asked" in ran.text
    assert (ran.summary["winner"], ran.summary["refused"]) == (None, "winner")
    assert "190.0% are asked" in Path(ran.summary["report"]).read_text(), "the report says what each one misses"
    assert registry.read(story.storage, "tiny/winner") == before


def test_a_damaged_parent_is_refused_by_name(story: Story, serving_cluster: Cluster) -> None:
    weights = Path(story.artifact("student").file("model.safetensors"))
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        ran = run_job(serving_cluster, "jobs.compress", story.file, "prune.feed_forward=0.25", "--storage", story.storage)
    finally:
        weights.write_bytes(sound)
    assert ran.exit_code == 2
    assert str(weights) in ran.text


def test_texts_longer_than_the_base_are_refused(story: Story, serving_cluster: Cluster) -> None:
    ran = run_job(
        serving_cluster, "jobs.finetune", story.file, "max_length=64", "--step", "undistilled", "--storage", story.storage
    )
    assert ran.exit_code == 2
    assert "the base, base, has 32 positions" in ran.text


def test_a_single_stage_by_the_ray_command_line(story: Story, serving_cluster: Cluster) -> None:
    stage = ["python", "-m", "jobs.distill", story.file, "temperature=3", "epochs=1", "--storage", story.storage]
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--working-dir", ".", "--", *stage]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **serving_cluster.environment})
    assert done.returncode == 0, done.stdout + done.stderr
    changed = load_recipe(story.file, ["steps.student.temperature=3", "steps.student.epochs=1"])
    found = locate(changed, story.storage)["student"].artifact
    assert found is not None
    assert found.manifest.config["temperature"] == 3
    assert "trials" not in found.manifest.details


def _runs(cluster: Cluster) -> tuple[int, str]:
    """The threads that the application was given last, and its state."""
    application = serve_rest_client(cluster.dashboard).get_serve_details()["applications"]["tiny"]
    return application["deployed_app_config"]["args"]["threads"], application["status"]


def _ask_until(end: threading.Event, url: str, seen: list[int]) -> None:
    """One light client; a connection that breaks counts as status 0."""
    while not end.wait(0.05):
        try:
            seen.append(requests.post(url, json={"inputs": "claim your cash bonus"}, timeout=60).status_code)
        except requests.ConnectionError:
            seen.append(0)


def _no_cluster() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
