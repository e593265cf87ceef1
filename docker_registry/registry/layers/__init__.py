"""Reading of layers: compression, tar, file lists, checksums and limits."""
