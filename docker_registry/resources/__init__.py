"""What the requests of a worker share: memory, time on the event loop, and circuit breakers of other services."""
