"""The simulation behind docs/scale.md: it agrees with theory, and with a real server."""

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from support.server import serving

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "replicas.py"


@pytest.fixture(scope="module")
def replicas() -> ModuleType:
    if not BENCHMARK.exists():
        pytest.skip("the source archive has no benchmarks")
    spec = spec_from_file_location("replicas", BENCHMARK)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_constant_load_is_refused_as_erlang_says(replicas):
    """Whatever the lengths' distribution; over several replicas as over one of the same slots."""
    assert replicas.blocked(4, 5) == pytest.approx(0.1991, abs=1e-4)
    for spread, slots, count in ((0.0, 10, 1), (1.5, 10, 1), (1.0, 5, 2)):
        clients = replicas.arrivals([1.0] * 100, 8, replicas.lengths(60, spread, 3), 60, 3)
        fleet = replicas.Fleet(slots, least=count)
        found = replicas.Simulation(fleet).run(clients)
        assert found.arrived > 40_000
        assert found.share == pytest.approx(replicas.blocked(8, 10), rel=0.1)
        assert found.busiest == 10


def test_replicas_come_and_go_and_cut_nobody(replicas):
    def day(seed: int):
        return replicas.arrivals(replicas.OFFICE, 60, replicas.lengths(600, 1.0, seed), 600, seed)

    def scaled(**options):
        fleet = replicas.Fleet(10, least=2, target=0.7, **options)
        return replicas.Simulation(fleet).run(day(5))

    fixed = replicas.fewest(replicas.Fleet(10), lambda: day(5), 0.001)
    assert replicas.Simulation(fixed).run(day(5)).share <= 0.001
    fewer = replicas.Fleet(10, least=fixed.least - 1)
    assert replicas.Simulation(fewer).run(day(5)).share > 0.001
    quick, slow = scaled(start_s=30), scaled(start_s=1200)
    assert quick.cut == slow.cut == 0
    assert quick.moved > 0
    assert quick.replica_hours < 0.8 * fixed.least * 24
    assert quick.refused < slow.refused


@pytest.mark.endurance
@pytest.mark.timeout(400)
async def test_a_server_refuses_what_is_predicted_of_the_same_clients(replicas):
    source = random.Random(2)
    clients, at = [], 0.0
    while at < 60:
        at += source.expovariate(1.0)
        clients.append(replicas.Arrival(at, source.uniform(2, 6)))
    with serving("--model", str(replicas.TINY), "--max-sessions", "4") as server:
        visits = await replicas.come(server.ws, clients)
    seen = sum(one.held is None for one in visits)
    assert seen > 5
    # As long as they held their slots: how long that is beyond their speech is the machine's.
    came, _ = replicas.as_they_came(clients, visits)
    predicted = replicas.Simulation(replicas.Fleet(4)).run(iter(came)).refused
    # One that ends and one that comes may be nearer to each other than a handshake takes.
    assert abs(seen - predicted) <= max(3, 0.25 * seen)
