"""YAML as recipes are written: SafeLoader's, but that 1e-5 is a number, and that no key stands twice in a mapping.

tree = load_yaml(text, "jobs/recipes/spam.yaml")
value = load_yaml("1e-5", "steps.teacher.optimizer.learning_rate")      # of an override
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from jobs.core.config import BadInput, Problem

MERGE = "tag:yaml.org,2002:merge"
YAML_FLOAT = "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
"""What YAML 1.2 and JSON have besides: YAML 1.1, which PyYAML reads, wants a point before the exponent and a sign after it."""


def load_yaml(text: str, where: str) -> Any:
    """The text's tree; BadInput where a key stands twice, yaml.YAMLError where it is not YAML. `where` is its file or key."""
    loader = _Loader(text)
    try:
        tree = loader.get_single_data()
    finally:
        loader.dispose()
    if loader.twice:
        raise BadInput(
            [
                Problem(f"{where}: line {line}", key, f"this key stands twice, first in line {first}", "Leave one of them.")
                for line, first, key in sorted(loader.twice, key=lambda found: found[:2])
            ]
        )
    return tree


class _Loader(yaml.SafeLoader):
    """Notes each key that its mapping has already. What `<<` merges bring is no part of the mapping yet where it looks."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[tuple[int, int, Any]] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == MERGE:
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in seen:
                self.twice.append((line, seen[key], key))
            seen.setdefault(key, line)
        return node


_Loader.add_implicit_resolver(YAML_FLOAT, EXPONENT, list("-+.0123456789"))
