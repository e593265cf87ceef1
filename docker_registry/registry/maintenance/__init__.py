"""Maintenance of a whole store: backup and restoration."""
