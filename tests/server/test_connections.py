"""Which connections of a worker are ended, and in which order."""

from __future__ import annotations

import pytest

from docker_registry.server.connections import Activity, Connections
from tests.support.clock import Clock


class Client:
    def __init__(self, activity=Activity.WAITING, since=900.0, moved=0, address="10.0.0.1"):
        self._activity, self.active_since, self.moved_bytes, self.address = activity, since, moved, address
        self.ended = self.lookups = 0

    @property
    def activity(self):
        self.lookups += 1
        return self._activity

    @activity.setter
    def activity(self, activity):
        self._activity = activity

    def end(self):
        self.ended += 1


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connections(clock):
    """Room for three connections, one of which is kept free."""
    return Connections(3, clock=clock)


def transfer(moved, since=900.0):
    return Client(Activity.TRANSFERRING, since, moved)


class TestEndingConnections:
    def fill(self, connections, *clients):
        for client in clients:
            connections.add(client)
        connections.restore_reserve()
        return [client.ended for client in clients]

    def test_does_not_happen_below_the_limit(self, connections):
        assert [0, 0] == self.fill(connections, Client(), transfer(0))

    def test_begins_with_the_longest_idle(self, connections):
        assert [0, 1, 0] == self.fill(connections, transfer(0), Client(since=950), Client(since=960))

    def test_prefers_lingering_connections_to_transfers(self, connections):
        assert [0, 1, 0] == self.fill(connections, transfer(0), Client(Activity.LINGERING, 999.9), transfer(0))

    def test_prefers_the_slowest_transfer(self, connections):
        assert [0, 1, 0] == self.fill(connections, transfer(1000), transfer(999), transfer(1000))

    def test_ranks_a_transfer_by_its_average_rate(self, connections):
        """A client that paused for a minute after 100 MB is not slow."""
        assert [0, 0, 1] == self.fill(connections, transfer(10**8), transfer(10**8), transfer(100, since=998))

    def test_prefers_slow_transfers_to_connections_idle_for_less_than_a_second(self, connections):
        assert [0, 0, 1] == self.fill(connections, Client(since=999.5), Client(since=999.5), transfer(0))
        assert [1, 0, 0] == self.fill(Connections(3, clock=Clock()), *(Client(since=999.5 + n / 10) for n in range(3)))

    @pytest.mark.parametrize(
        "kept",
        [transfer(10**7), transfer(0, since=999.5), Client(Activity.WORKING), Client(since=999.9)],
        ids=["fast", "young", "working", "between requests"],
    )
    def test_never_affects_fast_transfers(self, connections, kept):
        assert [0, 0, 0] == self.fill(connections, kept, kept.__class__(**settings(kept)), Client(Activity.WORKING))

    def test_counts_ended_connections_as_free_for_two_seconds(self, connections, clock):
        assert [1, 0, 0] == self.fill(connections, transfer(0), transfer(1), transfer(2))
        connections.restore_reserve()
        clock.now += 3
        second = transfer(0)
        connections.add(second)
        connections.restore_reserve()
        assert 1 == second.ended

    def test_examines_each_connection_rarely_however_many_are_ended(self, clock):
        connections = Connections(1000, clock=clock)
        clients = [transfer(number) for number in range(900)]
        for client in clients:
            connections.add(client)
        for number in range(20):
            connections.add(Client(Activity.WORKING))
            connections.restore_reserve()
            assert [number + 1, 0] == [sum(one.ended for one in clients), clients[number + 1].ended]
            clock.now += 0.01
        assert sum(client.lookups for client in clients) < 2 * len(clients)

    @pytest.mark.parametrize(
        ("activity", "since", "moved"),
        [(Activity.WORKING, 900, 0), (Activity.TRANSFERRING, 1000, 0), (Activity.TRANSFERRING, 900, 10**7)],
        ids=["working", "new request", "faster"],
    )
    def test_spares_connections_that_changed_since_the_ranking(self, connections, clock, activity, since, moved):
        changed, slow = transfer(1), transfer(2)
        assert [1, 0, 0] == self.fill(connections, transfer(0), changed, slow)
        changed.activity, changed.active_since, changed.moved_bytes = activity, since, moved
        connections.add(Client(Activity.WORKING))
        connections.restore_reserve()
        assert [0, 1] == [changed.ended, slow.ended]


def settings(client):
    return {"activity": client.activity, "since": client.active_since, "moved": client.moved_bytes}


class TestTheLimitPerAddress:
    def test_is_off_by_default(self, connections):
        clients = [Client() for _ in range(3)]
        for client in clients:
            connections.add(client)
        assert not any(connections.is_one_too_many(client) for client in clients)

    @pytest.mark.parametrize(
        ("expected", "addresses"),
        [
            ([False, False, True], ["10.0.0.1", "10.0.0.1", "10.0.0.1"]),
            ([False, False, False], ["10.0.0.1", "10.0.0.1", "10.0.0.2"]),
            ([False, False, True], ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
            ([False, False, False], ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::3"]),
            ([False, False, False], ["::ffff:10.0.0.1", "::ffff:10.0.0.2", "::ffff:10.0.0.3"]),
            ([False, False, True], ["::ffff:10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.1"]),
            ([False, False, False], ["", "", ""]),
        ],
        ids=["one", "two", "one-network", "two-networks", "three-by-ipv6", "one-by-ipv6", "unix"],
    )
    def test_counts_addresses_and_networks_of_ipv6(self, clock, expected, addresses):
        connections = Connections(100, per_address=2, clock=clock)
        found = []
        for address in addresses:
            client = Client(address=address)
            connections.add(client)
            found.append(connections.is_one_too_many(client))
        assert expected == found

    def test_does_not_count_closed_connections(self, clock):
        connections = Connections(100, per_address=1, clock=clock)
        for _ in range(3):
            client = Client()
            connections.add(client)
            assert not connections.is_one_too_many(client)
            connections.remove(client)
        assert 0 == len(connections)


class TestTheEndOfAWorker:
    def test_ends_connections_without_a_request(self, connections):
        clients = [Client(), transfer(0), Client(Activity.WORKING)]
        for client in clients:
            connections.add(client)
        connections.end_waiting()
        assert [1, 0, 0] == [client.ended for client in clients]

    def test_ends_transfers_without_progress_for_half_a_minute(self, connections, clock):
        trickling, flowing, working = transfer(0), transfer(0), Client(Activity.WORKING)
        for client in (trickling, flowing, working):
            connections.add(client)
        for _ in range(100):
            connections.end_stalled()
            clock.now += 1
            trickling.moved_bytes += 100
            flowing.moved_bytes += 2000
        assert (True, 0, 0) == (trickling.ended > 0, flowing.ended, working.ended)
        trickling.ended = 0
        connections.end_stalled()
        assert 0 == trickling.ended
