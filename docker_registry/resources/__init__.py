"""What the requests of a worker share: memory, time on the event loop, detection of disconnected clients."""
