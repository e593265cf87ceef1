"""The index in which clients search for repositories."""
