"""The operator's access rules."""
