"""What API V1 sees of V2, and V2 of V1."""
