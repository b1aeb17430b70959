"""What was set in a service by hand stays when a step, a canary or a rollback gives its entry anew; what that names wins."""

import copy
from typing import Any

import pytest

from jobs.core.config import BadInput
from jobs.deploy import DeployConfig, named
from jobs.deploying.canary_decision import CanaryConfig, beside
from jobs.deploying.carry import CANDIDATE, IDENTITY, carry_over, check_name, named_by, runs, without_candidate
from serve.app import deployment_config
from serve.settings import Arguments, CascadeSettings, ModelSettings

Entry = dict[str, Any]
MEASURED: Entry = {"points": []}
HAND_MADE = {
    "keys": "s3://bucket/keys.json",
    "cache_texts": 100,
    "access_log": "texts",
    "request_timeout_seconds": 12.0,
    "max_queued_requests": 7,
    "max_waiting_texts": 4096,
    "batch_wait_seconds": 0.01,
    "max_batch_tokens": 2048,
    "min_replicas": 2,
    "max_replicas": 5,
    "target_ongoing_requests": 3,
    "gpus": 1,
    "device": "cuda",
    "others": {"large": {"model": "/runs/large", "min_replicas": 0}},
    "shadow": {"model": "large", "share": 0.2},
}


def version(model: str = "/runs/one", route: str = "/", **arguments: Any) -> Entry:
    """The entry of a step, as the registry keeps it."""
    settings = {"name": "spam", "fingerprint": "f" * 64, "variant": "int8", "max_ongoing_requests": 64, **arguments}
    return deployment_config("spam", Arguments(model=model, **settings), route)


def cascaded(model: str = "/runs/one", **arguments: Any) -> Entry:
    """With the teacher behind it, as the step puts it there."""
    teacher = ModelSettings(model="/runs/teacher", fingerprint="e" * 64, variant="torch", cpus=0)
    behind = CascadeSettings(model="teacher", threshold=0.8)
    return version(model, others={"teacher": teacher}, cascade=behind, **arguments)


def served(wanted: Entry, **arguments: Any) -> Entry:
    """What Serve was told after the step had put this there, and somebody had edited these arguments."""
    entry, carried = carry_over(wanted, None, IDENTITY)
    assert carried == ()
    told = copy.deepcopy(entry) | {"runtime_env": {"working_dir": "gcs://code.zip"}}
    others = {**told["args"].get("others", {}), **arguments.pop("others", {})}
    told["args"] |= {**arguments, "others": others}
    return told


def given(wanted: Entry, told: Entry, named: frozenset[str] = IDENTITY, drop: tuple[str, ...] = ()) -> Entry:
    """The arguments that Serve is told then, checked."""
    entry, _ = carry_over(wanted, told, named, drop)
    Arguments.model_validate(entry["args"])
    arguments: Entry = entry["args"]
    return arguments


@pytest.mark.parametrize("wanted", [version(), version("/runs/two"), version("/runs/two", threads=2)])
def test_all_that_was_set_by_hand_stays_for_the_next_version_and_the_one_after(wanted: Entry) -> None:
    told = served(version(), **HAND_MADE)
    for _ in range(3):
        entry, carried = carry_over(wanted, told, IDENTITY)
        assert {key: entry["args"][key] for key in HAND_MADE} == HAND_MADE
        assert {key.partition(".")[0] for key in carried} == set(HAND_MADE)
        assert entry["args"]["model"] == wanted["args"]["model"]
        assert "runtime_env" not in entry, "a job's code is not carried over"
        told = {**entry, "runtime_env": {"working_dir": "gcs://other.zip"}}


@pytest.mark.parametrize("key", sorted(set(HAND_MADE) - {"others"}))
def test_what_is_dropped_goes_and_nothing_else(key: str) -> None:
    told = served(version(), **HAND_MADE)
    entry, carried = carry_over(version(), told, IDENTITY, (check_name(key),))
    Arguments.model_validate(entry["args"])
    least = {"max_replicas": HAND_MADE["min_replicas"]}  # so many are always there, by hand
    assert key not in carried and entry["args"].get(key) in (least.get(key, version()["args"].get(key)), None)
    assert {one.partition(".")[0] for one in carried} == set(HAND_MADE) - {key}


def test_what_the_step_names_wins_and_its_defaults_do_not() -> None:
    told = served(version(), threads=8, min_replicas=3, max_replicas=3, max_ongoing_requests=500, max_batch_size=4)
    wanted = version("/runs/two", threads=2, max_batch_size=16, max_ongoing_requests=32)
    free = given(wanted, told, named(DeployConfig(), {}))
    assert [free[key] for key in ("threads", "min_replicas", "max_ongoing_requests", "max_batch_size")] == [8, 3, 500, 4]
    measured = given(wanted, told, named(DeployConfig(), MEASURED))
    assert [measured[key] for key in ("threads", "max_ongoing_requests", "max_batch_size")] == [2, 32, 16]
    assert (measured["min_replicas"], measured["max_replicas"]) == (3, 3)
    set_in_recipe = given(wanted, told, named(DeployConfig(threads=2, replicas=1), {}))
    assert [set_in_recipe[key] for key in ("threads", "min_replicas", "max_replicas", "max_batch_size")] == [2, 1, 1, 4]


def test_what_an_earlier_step_put_there_goes_with_it_though_it_was_never_recorded() -> None:
    never_started = served(cascaded("/runs/two", threads=64, max_batch_size=512), keys="/keys.json")
    arguments = given(version(), never_started)
    assert arguments["keys"] == "/keys.json"
    assert (arguments.get("cascade"), arguments["others"]) == (None, {})
    assert (arguments["threads"], arguments["max_batch_size"]) == (1, 32)


def test_the_steps_cascade_goes_with_the_step_and_one_made_by_hand_stays() -> None:
    of_step = given(version(), served(cascaded()))
    assert ("cascade" in of_step, of_step["others"]) == (False, {})
    tuned = cascaded()
    told = served(tuned, others={"teacher": {**tuned["args"]["others"]["teacher"], "min_replicas": 0}})
    assert given(version(), told)["others"] == {}, "tuned by hand, it is the step's all the same"
    by_hand: Entry = {"others": {"large": {"model": "/runs/large"}}, "cascade": {"model": "large", "threshold": 0.7}}
    kept = given(version("/runs/two"), served(version(), **by_hand))
    assert {key: kept[key] for key in by_hand} == by_hand
    replaced = given(version("/runs/two"), served(cascaded(), **by_hand))
    assert {key: replaced[key] for key in by_hand} == by_hand
    assert given(cascaded("/runs/two"), served(version(), **by_hand))["cascade"]["model"] == "teacher", (
        "the step names its own"
    )


def test_the_steps_teacher_stays_as_it_was_tuned_by_hand_and_where_something_made_by_hand_needs_it() -> None:
    put = cascaded()["args"]["others"]["teacher"]
    tuned = {**put, "min_replicas": 0, "gpus": 1, "cpus": 4}
    told = served(cascaded(), others={"teacher": tuned}, cascade={"model": "teacher", "threshold": 0.1, "timeout_seconds": 2})
    entry, carried = carry_over(cascaded("/runs/two"), told, IDENTITY)
    teacher = entry["args"]["others"]["teacher"]
    assert (teacher["min_replicas"], teacher["gpus"], teacher["cpus"]) == (0, 1, 0), "the step names cpus"
    assert entry["args"]["cascade"]["threshold"] == 0.8 and entry["args"]["cascade"]["timeout_seconds"] == 2
    assert carried == ("cascade.timeout_seconds", "others.teacher.gpus", "others.teacher.min_replicas")
    dropped = given(cascaded("/runs/two"), told, drop=("others.teacher.gpus", "cascade.timeout_seconds"))
    assert (dropped["others"]["teacher"]["gpus"], dropped["cascade"]["timeout_seconds"]) == (0, 5)
    shown = served(cascaded(), shadow={"model": "teacher"})
    needed = given(version("/runs/two"), shown)
    assert (needed["others"], needed["shadow"]) == ({"teacher": put}, {"model": "teacher"})
    assert "cascade" not in needed


def test_more_replicas_for_long_lists_follow_the_model() -> None:
    bulk = {"model": "/runs/one", "variant": "torch", "gpus": 1, "from_texts": 64}
    told = served(version(), bulk=bulk)
    assert given(version(), told)["bulk"] == bulk
    followed = given(version("/runs/two"), told)["bulk"]
    assert followed == bulk | {"model": "/runs/two", "fingerprint": "f" * 64}
    assert runs(version(), told)


def test_what_stands_around_the_arguments_stays() -> None:
    told = served(cascaded())
    told |= {"logging_config": {"log_level": "DEBUG"}, "route_prefix": "/moved"}
    told["deployments"] = [{"name": "model", "num_replicas": 3}, {"name": "model-teacher", "num_replicas": 2}]
    told["runtime_env"] |= {"env_vars": {"A": "1"}}
    entry, carried = carry_over(version("/runs/two"), told, named(DeployConfig(), {}))
    assert entry["deployments"] == [{"name": "model", "num_replicas": 3}], "Serve refuses options of what is not there"
    assert entry["runtime_env"] == {"env_vars": {"A": "1"}}
    assert (entry["logging_config"], entry["route_prefix"]) == ({"log_level": "DEBUG"}, "/moved")
    assert set(carried) == {"deployments", "runtime_env.env_vars", "logging_config", "route_prefix"}
    assert carry_over(version(route="/x"), told, named(DeployConfig(route="/x"), {}))[0]["route_prefix"] == "/x"
    drop = ("deployments", "runtime_env.env_vars", "logging_config", "route_prefix")
    assert set(carry_over(version(), told, IDENTITY, drop)[0]) == {"name", "route_prefix", "import_path", "args"}
    of_hand = {**told, "runtime_env": {"working_dir": "https://host/code.zip"}}
    assert carry_over(version(), of_hand, IDENTITY)[0]["runtime_env"] == {"working_dir": "https://host/code.zip"}


def test_a_service_made_by_hand_keeps_what_the_first_step_does_not_name() -> None:
    told = {"name": "spam", "import_path": "serve.app:build", "args": {"model": "/mine", "threads": 4, **HAND_MADE}}
    entry, carried = carry_over(version(), told, named(DeployConfig(), {}))
    assert {key: entry["args"][key] for key in HAND_MADE} == HAND_MADE
    assert (entry["args"]["model"], entry["args"]["threads"]) == ("/runs/one", 4)
    assert "model" not in carried


def test_a_service_from_before_entries_told_what_is_the_steps_is_known_by_the_registry() -> None:
    recorded = cascaded(threads=2)
    told = copy.deepcopy(recorded)
    told["args"]["keys"] = "/keys.json"
    entry, carried = carry_over(version("/runs/two"), told, IDENTITY, recorded=recorded)
    assert carried == ("keys",)
    assert (entry["args"]["threads"], entry["args"]["others"]) == (1, {})
    assert runs(recorded, told)


def test_a_default_that_was_restored_by_hand_stays_one() -> None:
    told = served(version())
    del told["args"]["max_ongoing_requests"]
    entry, carried = carry_over(version("/runs/two"), told, IDENTITY)
    assert "max_ongoing_requests" in carried and Arguments.model_validate(entry["args"]).max_ongoing_requests == 1024


def test_replicas_of_which_one_bound_was_set_by_hand_are_ones_that_serve_takes() -> None:
    lowered = served(version(min_replicas=4, max_replicas=4), min_replicas=2)
    then = version("/runs/two")
    back = given(then, lowered, named_by(then))
    assert (back["min_replicas"], back["max_replicas"]) == (2, 2)
    dropped = given(version(), served(version(), min_replicas=2, max_replicas=5), drop=("max_replicas",))
    assert (dropped["min_replicas"], dropped["max_replicas"]) == (2, 2)


@pytest.mark.parametrize("drop", ["others", "others.large"])
def test_what_asks_a_model_that_goes_goes_with_it(drop: str) -> None:
    told = served(version(), keys="/keys.json", others={"large": {"model": "/runs/large"}}, shadow={"model": "large"})
    entry, carried = carry_over(version(), told, IDENTITY, (drop,))
    assert carried == ("keys",)
    assert not {"shadow", "cascade"} & given(version(), told, drop=(drop,)).keys() and entry["args"]["others"] == {}
    told["args"] |= {"cascade": {"model": "large", "threshold": 0.9}}
    assert "cascade" not in given(version(), told, drop=(drop,))


def test_which_version_runs_is_not_changed_by_what_a_step_does_not_name() -> None:
    first, second = version(threads=2), version("/runs/two")
    for newest in (first, second, cascaded()):
        assert runs(newest, served(newest))
        assert runs(newest, served(newest, **HAND_MADE))
        assert runs(newest, {**served(newest, keys="/keys.json"), "deployments": [{"name": "model", "num_replicas": 3}]})
    assert not runs(first, served(second))
    assert not runs(first, served(first, threads=99)), "what the version names was changed by hand"
    assert not runs(first, served(first, variant="torch"))
    assert not runs(version(), served(cascaded())), "another config that did not start"


def test_a_rollback_keeps_the_keys_of_now_and_the_figures_of_then() -> None:
    then, now = version(threads=2), version("/runs/two", threads=4)
    back = given(then, served(now, keys="/keys.json", max_replicas=4), named_by(then))
    assert (back["model"], back["threads"], back["keys"], back["max_replicas"]) == ("/runs/one", 2, "/keys.json", 4)
    assert "keys" not in given(then, served(now, keys="/keys.json"), named_by(then), ("keys",))


def test_while_a_version_is_tried_and_after_it_all_stays_as_it_was_set_by_hand() -> None:
    told = served(version(), **HAND_MADE)
    before, carried = carry_over(version(), told, IDENTITY)
    tried = beside(before, version("/runs/two"), CanaryConfig(share=0.2))
    for key in set(HAND_MADE) - {"others", "shadow"}:
        assert tried["args"][key] == HAND_MADE[key]
    assert set(tried["args"]["others"]) == {"large", CANDIDATE}
    assert tried["args"]["shadow"]["model"] == tried["args"]["canary"]["model"] == CANDIDATE
    assert set(without_candidate(tried)["args"]["others"]) == {"large"}
    assert without_candidate(tried)["args"]["shadow"] == {"model": "large", "share": 0.2, "max_waiting_texts": 256}
    # Whatever ended it: back to the version before, or on to the new one; and keys that were added meanwhile stay too.
    tried["args"]["keys"] = "/newer.json"
    for wanted in (version(), version("/runs/two")):
        arguments = given(wanted, tried)
        assert (arguments["keys"], arguments["cache_texts"], arguments["shadow"]["model"]) == ("/newer.json", 100, "large")
        assert "canary" not in arguments and set(arguments["others"]) == {"large"}
    plain = beside(carry_over(version(), served(version()), IDENTITY)[0], version("/runs/two"), CanaryConfig())
    assert not {"shadow", "canary"} & set(given(version(), plain))


def test_a_model_of_the_candidates_name_is_not_overwritten() -> None:
    mine, _ = carry_over(version(), served(version(), others={CANDIDATE: {"model": "/mine"}}), IDENTITY)
    with pytest.raises(BadInput, match="a model of this name already"):
        beside(mine, version("/runs/two"), CanaryConfig())


@pytest.mark.parametrize(
    "name", ["keys", "others", "others.large", "others.large.gpus", "deployments", "runtime_env.env_vars"]
)
def test_names_of_what_may_go(name: str) -> None:
    assert DeployConfig(drop=(name,)).drop == (name,)


@pytest.mark.parametrize("name", ["key", "model", "keys.mobile", "by_step", ""])
def test_a_wrong_name_of_what_is_to_go_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="nothing that can be set by hand") as error:
        DeployConfig.model_validate({"drop": [name]})
    assert "others" in str(error.value), "what there is"
