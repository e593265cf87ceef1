"""The domain: blobs, uploads, manifests and tags over one storage driver. Knows neither HTTP nor any cloud."""
