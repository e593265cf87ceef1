"""The HTTP server: gunicorn's worker, its sockets, bodies and response cache."""
