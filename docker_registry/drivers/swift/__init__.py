"""Storage driver for OpenStack Swift."""
