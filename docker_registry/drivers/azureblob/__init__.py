"""Storage driver for Azure Blob Storage."""
