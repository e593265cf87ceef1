"""What is inside a layer."""
