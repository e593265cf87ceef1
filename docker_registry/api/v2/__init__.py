"""The routes of Registry API V2, the OCI Distribution Specification."""
