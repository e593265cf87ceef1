"""A cache in Redis in front of any driver."""
