"""Aliases and verdicts: in roots of their own, and still found where earlier versions have put them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.store.registry import Alias, AliasTarget, RegistryError, aliases, has_alias, move, read, record_verdict, verdicts
from cluster.store.storage import delete, join, list_files, write_bytes

NAME = "reviews/production"
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


def earlier_alias(storage: str, uri: str, moved: datetime = LONG_AGO) -> Alias:
    """As earlier versions wrote it."""
    alias = Alias(name=NAME, history=(AliasTarget(uri=uri, fingerprint=uri, variant="int8", moved=moved),))
    write_bytes(join(storage, "registry", f"{NAME}.json"), alias.model_dump_json(indent=1).encode())
    return alias


def test_aliases_and_verdicts_have_roots_of_their_own(storage_uri: str) -> None:
    move(storage_uri, NAME, "/a", "f", "int8")
    place = record_verdict(storage_uri, NAME, {"winner": "a"})
    assert [alias.name for alias in aliases(storage_uri)] == [NAME]
    paths = [stat.path for stat in list_files(storage_uri)]
    assert paths == [f".aliases/{NAME}.json", place.removeprefix(storage_uri).lstrip("/")]
    assert paths[1].startswith(f".verdicts/{NAME}/")
    assert verdicts(storage_uri, "reviews") == [], "a verdict on reviews/production is none on reviews"


def test_an_alias_of_an_earlier_version_is_read_and_goes_on(storage_uri: str) -> None:
    before = earlier_alias(storage_uri, "/old")
    assert has_alias(storage_uri, NAME) and read(storage_uri, NAME) == before and aliases(storage_uri) == [before]
    assert move(storage_uri, NAME, "/old", "/old", "int8") == before, "it points there already"
    after = move(storage_uri, NAME, "/new", "/new", "int8")
    assert [target.uri for target in after.history] == ["/old", "/new"]
    assert read(storage_uri, NAME) == after and aliases(storage_uri) == [after]


def test_where_an_earlier_version_goes_on_beside_this_one_the_last_move_counts(tmp_path: Path) -> None:
    earlier_alias(str(tmp_path), "/old")
    move(str(tmp_path), NAME, "/new", "/new", "int8")
    newest = earlier_alias(str(tmp_path), "/newest", datetime.now(UTC) + timedelta(seconds=5))
    assert read(str(tmp_path), NAME) == newest and aliases(str(tmp_path)) == [newest]


def test_verdicts_of_earlier_versions_come_first_and_are_not_written_again(storage_uri: str) -> None:
    place = record_verdict(storage_uri, NAME, {"winner": "a"})
    (stat,) = list_files(join(storage_uri, ".verdicts"))
    earlier = join(storage_uri, "registry", NAME, "verdicts", stat.path.removeprefix(f"{NAME}/"))
    write_bytes(earlier, b'{"winner": "a"}')
    delete(place)
    assert record_verdict(storage_uri, NAME, {"winner": "a"}) == earlier
    record_verdict(storage_uri, NAME, {"winner": "b"})
    assert [verdict["winner"] for verdict in verdicts(storage_uri, NAME)] == ["a", "b"]
    assert aliases(storage_uri) == [], "a verdict is no alias"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1]", b"7"])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    place = record_verdict(str(tmp_path), NAME, {"winner": "a"})
    write_bytes(place, content)
    with pytest.raises(RegistryError, match=f"{place} is not a verdict"):
        verdicts(str(tmp_path), NAME)
    write_bytes(join(str(tmp_path), ".aliases", f"{NAME}.json"), content)
    for call in (lambda: read(str(tmp_path), NAME), lambda: aliases(str(tmp_path))):
        with pytest.raises(RegistryError, match=f"{NAME}.json is not an alias: .*select or deploy again"):
            call()
