"""What was set in a running service by hand, and is carried over when a deployment step, a canary or a rollback gives it anew.

    entry, carried = carry_over(wanted, told, named)       # carried: ("keys", "others.large", "max_replicas")

`wanted` is an application's entry in a Serve config as a step makes it, `told` the one that Serve was last told. By hand is
what differs in `told` from what the step itself had put there, which `by_step` in its arguments keeps. What a step names wins.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from serve.settings import Arguments, CascadeSettings, ModelSettings

CANDIDATE = "candidate"
"""The name of a new version that is tried."""
IDENTITY = frozenset({"name", "model", "fingerprint", "variant", "judged_on"})
"""Which model answers, and on which kind of processor it was judged."""
STEP_ARGUMENTS = IDENTITY | {
    "route_prefix",
    "threads",
    "cpus",
    "min_replicas",
    "max_replicas",
    "max_batch_size",
    "max_ongoing_requests",
}
"""What a deployment step may name, besides `cascade` with its model."""
AROUND = ("route_prefix", "runtime_env", "deployments", "logging_config", "autoscaling_policy", "external_scaler_enabled")
BY_STEP = "by_step"
CODE_PACKAGE = "gcs://"
"""Where Ray keeps the code that a job came with."""
Entry = dict[str, Any]
EntryPart = Entry | None


def carry_over(
    wanted: Mapping[str, Any],
    told: Mapping[str, Any] | None,
    named: Collection[str],
    drop: Collection[str] = (),
    recorded: Mapping[str, Any] | None = None,
) -> tuple[Entry, tuple[str, ...]]:
    """The wanted entry with what was set by hand, and the dotted names of that.

    `named` are the keys that the step sets whatever was set by hand; `drop` names what is not carried over. `recorded` is the
    entry of the newest version, for a service that was told before entries kept `by_step`.
    """
    mark = _mark(wanted)
    if told is None:
        return {**wanted, "args": {**wanted["args"], BY_STEP: mark}}, ()
    told = without_candidate(told)
    put = told["args"].get(BY_STEP) or (_mark(recorded) if recorded else {})
    entry, carried = _around(wanted, told, put, named, drop)
    arguments, more = _arguments(wanted["args"], told["args"], put, named, drop)
    entry["args"] = {**arguments, BY_STEP: mark}
    if "deployments" in entry:
        entry["deployments"] = _of_those_there(entry["deployments"], arguments)
    return entry, (*more, *carried)


def tell(carried: Collection[str]) -> None:
    """Say on the log what is carried over."""
    if carried:
        print(f"set in the service by hand, and carried over: {', '.join(carried)} (`drop` names what is to go)", flush=True)


def check_name(name: str) -> str:
    """A dotted name for `drop`; ValueError where nothing has this name."""
    first, _, part = name.partition(".")
    known = {*Arguments.model_fields, *AROUND} - IDENTITY - {BY_STEP}
    if first not in known or (part and first not in ("others", "cascade", "runtime_env")):
        raise ValueError(f"{name} is nothing that can be set by hand; name one of {', '.join(sorted(known))}")
    return name


def without_candidate(told: Mapping[str, Any]) -> Entry:
    """The entry as it is once no new version is tried any more, with the shadow that had to wait meanwhile."""
    arguments = dict(told.get("args") or {})
    canary = arguments.get("canary") or {}
    if canary.get("model") == CANDIDATE:
        del arguments["canary"]
        arguments["others"] = {name: one for name, one in arguments["others"].items() if name != CANDIDATE}
        shadow = arguments.pop("shadow", None) or {}
        if waiting := canary.get("paused_shadow") or (shadow if shadow.get("model") != CANDIDATE else None):
            arguments["shadow"] = waiting
    return {**told, "args": arguments}


def runs(version: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether what Serve was told is this version, whatever was set by hand beside what the version names."""
    told = without_candidate(told)
    now, then = told["args"], version["args"]
    keys = named_by(version)
    if BY_STEP in now:
        same = bool(now[BY_STEP] == _mark(version))
    else:
        keys, same = STEP_ARGUMENTS, _model_of(now.get("cascade")) == _model_of(then.get("cascade"))
    if told.get("route_prefix", "/") != version.get("route_prefix", "/") and "route_prefix" in keys:
        return False
    return same and all(_value(now, key) == _value(then, key) for key in keys - {"route_prefix"})


def named_by(version: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a version, as the registry keeps it, that hold whatever was set by hand: those beyond the defaults."""
    # So many requests for each text of a batch is the step's default, which no recipe names.
    return frozenset(IDENTITY | {key for key in _mark(version) if key in STEP_ARGUMENTS - {"max_ongoing_requests"}})


def _value(arguments: Mapping[str, Any], key: str) -> Any:
    return arguments.get(key, _default(Arguments, key))


def _model_of(part: Mapping[str, Any] | None) -> Any:
    return None if part is None else part.get("model")


def _mark(entry: Mapping[str, Any]) -> Entry:
    """What an entry of a step puts into a service, without what is a default anyway."""
    arguments = {key: value for key, value in entry["args"].items() if key != BY_STEP and value != _default(Arguments, key)}
    route = entry.get("route_prefix", "/")
    return arguments if route == "/" else {"route_prefix": route, **arguments}


def _around(
    wanted: Mapping[str, Any], told: Mapping[str, Any], put: Entry, named: Collection[str], drop: Collection[str]
) -> tuple[Entry, list[str]]:
    """What stands around the arguments: the route, the environment without a job's code, options of deployments."""
    entry, carried = dict(wanted), list[str]()
    route = told.get("route_prefix", "/")
    if "route_prefix" not in {*named, *drop} and route not in (put.get("route_prefix", "/"), wanted.get("route_prefix")):
        entry["route_prefix"] = route
        carried.append("route_prefix")
    environment = {
        key: value
        for key, value in (told.get("runtime_env") or {}).items()
        if not (key == "working_dir" and str(value).startswith(CODE_PACKAGE))
        and not {"runtime_env", f"runtime_env.{key}"} & set(drop)
    }
    if environment:
        entry["runtime_env"] = environment
        carried += [f"runtime_env.{key}" for key in environment]
    for key, value in told.items():
        if value and key not in {*wanted, *drop, "name", "import_path", "args", "route_prefix", "runtime_env"}:
            entry[key] = value
            carried.append(key)
    return entry, carried


def _of_those_there(options: list[Entry], arguments: Mapping[str, Any]) -> list[Entry]:
    """Options of deployments without those whose model goes: Serve refuses what it has no deployment for."""
    from serve.app import DEPLOYMENT

    there = {DEPLOYMENT, *(f"{DEPLOYMENT}-{name}" for name in ("bulk", *arguments["others"]))}
    return [one for one in options if one["name"] in there]


def _arguments(
    wanted: Mapping[str, Any], told: Mapping[str, Any], put: Entry, named: Collection[str], drop: Collection[str]
) -> tuple[Entry, list[str]]:
    plain = set(Arguments.model_fields) - {"others", "cascade", BY_STEP}
    arguments, carried = _by_hand(Arguments, plain - set(named) - set(drop), wanted, told, put)
    if "bulk" in carried and any(wanted.get(key) != told.get(key) for key in ("model", "fingerprint")):
        # It is the default model on other hardware, so it follows that to its next version.
        arguments["bulk"] = {**arguments["bulk"], "model": wanted["model"], "fingerprint": wanted.get("fingerprint")}
    cascade, more = _cascade(wanted.get("cascade"), told.get("cascade"), put.get("cascade"), drop)
    if cascade is not None:
        arguments["cascade"] = cascade
    others, further = _others(wanted.get("others", {}), told.get("others", {}), put.get("others", {}), drop)
    for key in ("cascade", "canary", "shadow"):
        name = (arguments.get(key) or {}).get("model")
        if name is None or name in others:
            continue
        if {"others", f"others.{name}"} & set(drop):
            # Nothing can be asked of a model that goes.
            del arguments[key]
            carried = [one for one in (*carried, *more) if one.partition(".")[0] != key]
            more = []
        elif name in told.get("others", {}):
            # The step's own, which something that was set by hand needs.
            others[name] = told["others"][name]
            further.append(f"others.{name}")
    arguments["others"] = others
    return arguments, [*carried, *more, *further]


def _cascade(
    wanted: Entry | None, told: Entry | None, put: Entry | None, drop: Collection[str]
) -> tuple[Entry | None, list[str]]:
    if told is None or "cascade" in drop:
        return wanted, []
    own = put is not None and put["model"] == told["model"]
    if wanted is None:
        return (None, []) if own else (told, ["cascade"])
    if not own:
        return wanted, []
    keys = {"timeout_seconds"} - {key.removeprefix("cascade.") for key in drop}
    cascade, carried = _by_hand(CascadeSettings, keys, wanted, told, put or {})
    return cascade, [f"cascade.{key}" for key in carried]


def _others(wanted: Entry, told: Entry, put: Entry, drop: Collection[str]) -> tuple[Entry, list[str]]:
    """The step's models, tuned as they were by hand, and those that were added by hand."""
    others, carried = dict(wanted), list[str]()
    for name, one in told.items():
        own = name in put and put[name]["model"] == one["model"]
        if {"others", f"others.{name}"} & set(drop) or (own and name not in wanted) or (name in wanted and not own):
            continue
        if name not in wanted:
            others[name] = one
            carried.append(f"others.{name}")
            continue
        named = IDENTITY | {key for key, value in wanted[name].items() if value != _default(ModelSettings, key)}
        free = {key for key in ModelSettings.model_fields if key not in named and f"others.{name}.{key}" not in drop}
        others[name], keys = _by_hand(ModelSettings, free, wanted[name], one, put[name])
        carried += [f"others.{name}.{key}" for key in keys]
    return others, carried


def _by_hand(
    kind: type[BaseModel], keys: Collection[str], wanted: Mapping[str, Any], told: Mapping[str, Any], put: Mapping[str, Any]
) -> tuple[Entry, list[str]]:
    """`wanted`, but those of the keys as they were told that differ from what was put; and these keys."""
    merged, carried = dict(wanted), list[str]()
    for key in kind.model_fields:
        default = _default(kind, key)
        value = told.get(key, default)
        if key not in keys or value in (put.get(key, default), wanted.get(key, default)):
            continue
        carried.append(key)
        if value == default:
            merged.pop(key, None)
        else:
            merged[key] = value
    if merged.get("min_replicas", 1) > merged.get("max_replicas", 1):
        # One of the two was set by hand, the other is the step's: Serve would refuse them together.
        merged["max_replicas"] = merged["min_replicas"]
    return merged, carried


def _default(kind: type[BaseModel], key: str) -> Any:
    field = kind.model_fields.get(key)
    return None if field is None else field.default
