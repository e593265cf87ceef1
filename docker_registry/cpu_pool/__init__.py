"""Processes that run CPU-bound jobs beside the worker."""
