from __future__ import annotations

import threading

from docker_registry.concurrency import KeyedLocks


class TestAKey:
    def test_is_held_by_one_at_a_time(self):
        locks = KeyedLocks()
        inside, most = [], []

        def work():
            for _ in range(200):
                with locks.hold("a"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {1} == set(most)
        assert {} == locks._locks

    def test_does_not_wait_for_another(self):
        locks = KeyedLocks()
        with locks.hold("a"), locks.hold("b"):
            pass

    def test_is_free_again_after_an_error(self):
        locks = KeyedLocks()
        for _ in range(2):
            try:
                with locks.hold("a"):
                    raise KeyError
            except KeyError:
                pass
