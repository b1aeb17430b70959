"""Placement of workers on nodes that are there or may come, without a cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.fleet.placement import GIBIBYTE, Demand, NodeType, Supply, place
from cluster.fleet.prices import PriceError, read_prices
from cluster.fleet.supply import SupplyError, quantity, read_supply, this_machine

ROOT = Path(__file__).parents[2]
HEAD = NodeType("head", 0, memory=8 * GIBIBYTE, living=1)
CPU = NodeType("cpu", 16, memory=64 * GIBIBYTE, most=4, price=(0.8, 0.8))
SPOT = NodeType("gpu-spot", 4, 1, 16 * GIBIBYTE, 24 * GIBIBYTE, most=4, priority=10, price=(0.3, 0.8))
STEADY = NodeType("gpu-on-demand", 4, 1, 16 * GIBIBYTE, 24 * GIBIBYTE, most=2, price=(0.8, 0.8))
CLOUD = Supply((HEAD, CPU, SPOT, STEADY), most=9)


def test_work_without_gpus_starts_no_gpu_node() -> None:
    placed = place(Demand("prepare", cpus=2, workers=8), CLOUD)
    assert placed.starts == {"cpu": 1}
    assert placed.price == (0.8, 0.8)


def test_spot_comes_first_and_on_demand_for_the_rest() -> None:
    placed = place(Demand("train", cpus=2, gpus=1, workers=5), CLOUD)
    assert placed.starts == {"gpu-spot": 4, "gpu-on-demand": 1}
    assert placed.price == pytest.approx((4 * 0.3 + 0.8, 5 * 0.8))


def test_a_search_has_as_many_trials_at_once_as_the_cluster_can_hold() -> None:
    placed = place(Demand("teacher", gpus=1, trials=20), CLOUD)
    assert placed.at_once == 6
    assert place(Demand("teacher", gpus=1, trials=3), CLOUD).at_once == 3
    # A GPU in two halves holds two.
    assert place(Demand("teacher", gpus=0.5, trials=20), CLOUD).at_once == 12


def test_the_cluster_s_own_limit_counts() -> None:
    placed = place(Demand("teacher", gpus=1, trials=20), replace(CLOUD, most=4))
    assert placed.at_once == 3
    assert placed.starts == {"gpu-spot": 3}


def test_what_lives_is_used_before_anything_starts() -> None:
    living = NodeType("node 10.0.0.7", 16, memory=64 * GIBIBYTE, living=1)
    supply = Supply((HEAD, living, replace(CPU, most=1)), most=3)
    assert place(Demand("prepare", cpus=1, workers=16), supply).starts == {}
    assert place(Demand("prepare", cpus=1, workers=17), supply).starts == {"cpu": 1}


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (Demand("a", gpus=2), "a worker asks for 2 GPU, and the largest node, gpu-spot, has 1"),
        (Demand("a", cpus=17), "a worker asks for 17 CPU, and the largest node, cpu, has 16"),
        (Demand("a", cpus=8, gpus=1), "no single node has 8 CPU, 1 GPU together"),
        (Demand("a", gpus=1, workers=7), "7 workers of 1 CPU, 1 GPU are needed at once, and all nodes together hold 6"),
        (
            Demand("a", gpus=1, gpu_memory=60 * GIBIBYTE),
            "a worker needs about 60.0 GiB of GPU memory, and gpu-spot has 24.0 GiB",
        ),
    ],
)
def test_what_can_never_be_placed_is_refused_with_the_reason(demand: Demand, reason: str) -> None:
    assert place(demand, CLOUD).refused == reason


def test_training_that_may_begin_with_fewer_workers_is_not_refused() -> None:
    assert place(Demand("a", gpus=1, workers=7, fewest=4), CLOUD).refused is None


def test_an_estimate_that_may_be_wrong_warns_and_does_not_refuse() -> None:
    crowded = place(Demand("a", cpus=1, workers=16, memory=5 * GIBIBYTE), CLOUD)
    assert crowded.refused is None
    assert crowded.warnings == (
        "16 worker(s) on one cpu may need 80.0 GiB, it has 64.0 GiB; resources.cpus of 2 or more leaves each its share",
    )
    assert place(Demand("a", gpus=1, gpu_memory=30 * GIBIBYTE), CLOUD).warnings


def test_a_launcher_s_file_is_read_with_its_prices() -> None:
    supply = read_supply(ROOT / "cluster.yaml")
    head, *workers = supply.types
    assert (head.cpus, head.living, head.most) == (0, 1, 1)
    gpu = next(kind for kind in workers if kind.gpus)
    machine = read_prices().machines[gpu.machine]
    assert (gpu.cpus, gpu.gpus, gpu.gpu_memory) == (machine.cpus, machine.gpus, machine.gpu_memory_gib * GIBIBYTE)
    assert gpu.price in ((machine.spot, machine.on_demand), (machine.on_demand, machine.on_demand))


def test_quantities_are_read_as_kubernetes_writes_them() -> None:
    assert [quantity(text) for text in ("500m", "16Gi", "2", "1G", 4)] == [0.5, 16 * GIBIBYTE, 2, 10**9, 4]


def test_files_that_are_no_cluster_or_no_price_table_are_named(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("steps: {}")
    with pytest.raises(SupplyError, match=r"other.yaml: not a cluster's file"):
        read_supply(file)
    with pytest.raises(PriceError, match=r"other.yaml: not a price table"):
        read_prices(file)
    with pytest.raises(SupplyError, match="cannot be read"):
        read_supply(tmp_path / "none.yaml")


def test_this_machine_has_what_the_process_may_use() -> None:
    (here,) = this_machine().types
    assert here.living == 1
    assert here.cpus >= 1
    assert here.memory is not None
    assert here.memory > GIBIBYTE


def test_prices_are_of_a_day_and_spot_is_never_dearer() -> None:
    table = read_prices()
    assert table.date.year >= 2025
    assert all(machine.spot is None or machine.spot <= machine.on_demand for machine in table.machines.values())
