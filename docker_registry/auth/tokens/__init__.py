"""Access tokens and refresh tokens of this registry, and the keys that sign them."""
