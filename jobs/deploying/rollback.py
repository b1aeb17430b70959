"""The command line of going back to the version before; `python -m jobs.deploy` comes here where it is given --rollback.

    python -m jobs.deploy jobs/recipes/spam.yaml --rollback
    python -m jobs.deploy spam/production --rollback --drop keys         # what was set by hand stays, but for this

The registry keeps each version's config beside the alias. A rollback is a move like any other, so a second one undoes it.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.store.registry import Alias, AliasTarget, RegistryError, move, read
from cluster.store.storage import absolute
from jobs.core.places import default_storage
from jobs.core.recipe import load_recipe
from jobs.deploying.carry import carry_over, check_name, named_by, runs, tell
from jobs.deploying.serve_client import DeployError, ServeClient
from jobs.running.cli import connect, guarded

RECIPE_ENDS = (".yaml", ".yml")


def main(arguments: list[str]) -> None:
    """Run the command line; exits with 0, with 2 where there is nothing to go back to, with 1 where it does not start."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.deploy", description="Deploy the version before the present one again, as it was configured."
    )
    parser.add_argument("of", metavar="RECIPE", help="the recipe's file, or an alias such as spam/production")
    parser.add_argument("--rollback", action="store_true", required=True)
    parser.add_argument("--storage", default=default_storage(), help="whose registry knows the alias (default: %(default)s)")
    about = "what was set by hand and is to go, such as keys or others.large (default: nothing; may be given again)"
    parser.add_argument("--drop", action="append", default=[], metavar="NAME", help=about)
    parsed = parser.parse_args(arguments)
    try:
        parsed.drop = [check_name(name) for name in parsed.drop]
    except ValueError as error:
        parser.error(f"--drop: {error}")
    guarded(lambda: _run(parsed))


def version_before(alias: Alias, told: Mapping[str, Any] | None) -> AliasTarget:
    """The version to go back to; RegistryError where there is none.

    `told` is what Serve was last told of the application. Where that is not the newest version (it did not start, or was
    given to Serve by hand), the newest is what was before; else the second newest. What was set by hand beside what a step
    names makes no other version.
    """
    newest = alias.target.config
    if told is not None and newest is not None and not runs(newest, told):
        return alias.target
    if len(alias.history) == 1:
        raise RegistryError(f"{alias.name} has one version alone, so there is none to go back to")
    before = alias.history[-2]
    if before.config is None:
        raise RegistryError(
            f"{alias.name}: version {len(alias.history) - 1}, {before.uri}, was deployed without its config being kept; "
            "deploy it by its recipe"
        )
    return before


def _run(parsed: argparse.Namespace) -> int:
    alias_name = f"{load_recipe(parsed.of, []).name}/production" if Path(parsed.of).suffix in RECIPE_ENDS else parsed.of
    storage = absolute(parsed.storage)
    alias = read(storage, alias_name)
    connect()
    client = ServeClient()
    name = (alias.target.config or {}).get("name", alias_name.partition("/")[0])
    told = client.entry(name)
    target = version_before(alias, told)
    assert target.config is not None
    entry, carried = carry_over(target.config, told, named_by(target.config), parsed.drop, alias.target.config)
    tell(carried)
    address = client.http_address()
    try:
        client.apply(client.config_with(entry, address), name, lambda state: print(state, flush=True))
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    moved = move(
        storage, alias_name, target.uri, target.fingerprint, target.variant, target.config, judged_on=target.judged_on
    )
    url = f"http://{address[0]}:{address[1]}{entry['route_prefix'].rstrip('/')}/v1/predict"
    print(f"{alias_name}: version {len(moved.history)} is {target.uri} ({target.variant}) again; it answers at {url}")
    return 0
