"""Redis in front of any store."""
