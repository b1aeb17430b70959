"""A recipe's file as one tree: what it extends, what the command line overrides; nothing of it is checked but for secrets.

    tree = read_tree("jobs/recipes/spam_cloud.yaml", ["steps.student.temperature=4"])

`extends: spam.yaml` takes another recipe, seen from this one's directory, and changes the keys that are written here:
mappings go into one another, everything else is replaced, and null takes a key away.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.store.redact import REMEDY, secret_in
from jobs.core.config import BadInput, Problem
from jobs.core.encodings import decoded
from jobs.core.recipe_yaml import load_yaml
from jobs.core.spaces import SPACE_KINDS, fill, find_spaces

EXTENDS = "extends"


def read_tree(path: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The recipe with its overrides in their places; BadInput where it cannot be read or holds a secret."""
    overrides = list(overrides)
    tree, values = _read(Path(path), ()), parse_overrides(overrides)
    found = _secrets(tree)
    for override in overrides:
        kind = secret_in(override)
        found += [Problem(override.partition("=")[0], None, f"it holds {kind}", REMEDY)] if kind else []
    if found:
        raise BadInput(found)
    return _without_idle_searches(fill(tree, values), values)


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`a.b=value` strings as paths and values; values are YAML."""
    values = {}
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign or not path:
            raise BadInput([Problem(override, None, "an override is written key=value", "E.g. temperature=4.")])
        try:
            values[path] = load_yaml(text, path)
        except yaml.YAMLError as error:
            raise BadInput([Problem(path, text, "the value is not YAML", "Quote it for the shell.")]) from error
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes: mappings into one another, search spaces and all else in place of what was there."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(before, Mapping) and not _is_space(value) and not _is_space(before):
            merged[key] = merge(before, value)
        else:
            merged[key] = value
    return merged


def _is_space(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in SPACE_KINDS


def _read(file: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tree with what it extends below it."""
    if not file.is_file():
        where = f"{children[-1]}: {EXTENDS}" if children else str(file)
        value = str(file) if children else None
        raise BadInput(
            [Problem(where, value, "no such recipe file", "Give the path of a YAML file, e.g. jobs/recipes/spam.yaml.")]
        )
    if file.resolve() in [child.resolve() for child in children]:
        circle = " → ".join(str(each) for each in (*children, file))
        raise BadInput([Problem(f"{file}: {EXTENDS}", circle, "these recipes extend each other", "Break the circle.")])
    try:
        tree = load_yaml(decoded(file.read_bytes(), str(file)), str(file))
    except yaml.YAMLError as error:
        raise BadInput([Problem(str(file), None, f"not YAML: {' '.join(str(error).split())}", "Mend the syntax.")]) from error
    if not isinstance(tree, Mapping):
        raise BadInput([Problem(str(file), tree, "a recipe is a mapping with name and steps", "See README.")])
    if EXTENDS not in tree:
        return dict(tree)
    named = tree[EXTENDS]
    if not isinstance(named, str):
        raise BadInput([Problem(f"{file}: {EXTENDS}", named, "it names one recipe file", "Write extends: spam.yaml.")])
    own = {key: value for key, value in tree.items() if key != EXTENDS}
    return merge(_read(file.parent / named, (*children, file)), own)


def _secrets(tree: Any, path: str = "") -> list[Problem]:
    """Secrets in a recipe, which its manifests would keep."""
    if isinstance(tree, Mapping):
        return [problem for key, value in tree.items() for problem in _secrets(value, f"{path}.{key}".lstrip("."))]
    if isinstance(tree, list):
        return [problem for value in tree for problem in _secrets(value, path)]
    # With its key before it, since the key may say what it is.
    kind = secret_in(f"{path.rpartition('.')[2]}={tree}") if isinstance(tree, str) else None
    return [Problem(path, None, f"it holds {kind}", REMEDY)] if kind else []


def _without_idle_searches(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop `tune` from the steps whose last search space an override has replaced by a value."""
    steps = tree.get("steps")
    for path in values:
        parts = path.split(".")
        step = steps.get(parts[1]) if isinstance(steps, Mapping) and parts[0] == "steps" and len(parts) > 2 else None
        if isinstance(step, dict) and parts[2] != "tune" and not find_spaces(step):
            step.pop("tune", None)
    return tree
