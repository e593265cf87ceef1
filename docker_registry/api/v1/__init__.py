"""The routes of Registry API V1."""
