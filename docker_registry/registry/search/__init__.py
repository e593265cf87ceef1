"""The search index for repository names."""
