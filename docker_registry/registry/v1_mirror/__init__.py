"""The mirror of API V1: the registry that ``mirroring.source`` names."""
