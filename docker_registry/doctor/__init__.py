"""Diagnosis of a registry and its proxies through its public address."""
