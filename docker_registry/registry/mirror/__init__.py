"""Mirrors: repositories of other registries, pulled through, verified, and kept in the store."""
