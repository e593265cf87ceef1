"""Storage driver for Google Cloud Storage."""
