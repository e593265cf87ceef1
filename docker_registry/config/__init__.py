"""The configuration: its schema, its files and their flavors."""
