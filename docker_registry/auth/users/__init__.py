"""Users with passwords, and robots."""
