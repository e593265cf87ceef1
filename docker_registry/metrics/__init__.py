"""Metrics: counted by each worker in plain numbers, published every second, and summed when they are scraped."""
