"""Pieces of work on actors: more actors than find a place, one that is killed, one that cannot begin.

pytest tests/jobs/test_actor_pool.py
"""

from pathlib import Path

import pytest

from cluster.connection.connect import Cluster
from jobs.core.config import BadInput
from jobs.offline.actor_pool import answered_by
from tests.jobs.unlucky import Mortal


def test_every_piece_is_done_once_where_actors_find_no_place_and_one_is_killed(ray_driver: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = dict(answered_by(Mortal, (str(mark), 5), range(24), 6, num_cpus=1))
    assert sorted(done) == list(range(24)) and mark.exists()
    assert len(set(done.values())) == 3, "two have a place on two CPUs, and another took the place of the one that was killed"


def test_no_more_actors_are_started_than_there_are_pieces(ray_driver: Cluster, tmp_path: Path) -> None:
    assert list(answered_by(Mortal, (str(tmp_path), 0), (), 2, num_cpus=1)) == []
    (one,) = answered_by(Mortal, (str(tmp_path), 9), (7,), 4, num_cpus=1)
    assert one[0] == 7


def test_an_actor_that_cannot_begin_ends_the_work_with_its_error(ray_driver: Cluster, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="pieces are counted from 0") as raised:
        list(answered_by(Mortal, (str(tmp_path), -1), range(4), 2, num_cpus=1))
    assert BadInput.__name__ in str(raised.value)
