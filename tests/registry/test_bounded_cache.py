from __future__ import annotations

from docker_registry.registry.bounded_cache import ENTRY_BYTES, BoundedCache


class TestABoundedCache:
    def test_evicts_the_least_recently_used(self):
        cache = BoundedCache(3 * ENTRY_BYTES)
        for key in "abc":
            cache.put(key, key.upper())
        assert "A" == cache.get("a")
        cache.put("d", "D")
        assert [True, False, True, True] == [key in cache for key in "abcd"]

    def test_stays_within_its_byte_limit(self):
        cache = BoundedCache(10_000, content_bytes=len)
        for number in range(1000):
            cache.put(number, b"x" * number)
            assert 10_000 >= cache.used_bytes
        cache.put("large", b"x" * 10_000)
        assert "large" not in cache
        assert 999 in cache

    def test_counts_a_replaced_value_once(self):
        cache = BoundedCache(10_000, content_bytes=len)
        for _ in range(100):
            cache.put("a", b"x" * 1000)
        assert ENTRY_BYTES + 1000 == cache.used_bytes
        cache.forget("a")
        assert (0, None) == (cache.used_bytes, cache.get("a"))
