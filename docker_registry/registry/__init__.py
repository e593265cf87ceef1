"""The domain of the registry, independent of HTTP: OCI content, and above it API V1, the bridge, search and more."""
