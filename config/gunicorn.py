"""
The configuration of gunicorn, which ``docker-registry`` uses; ``gunicorn -c config/gunicorn.py`` works too.

Every value can be set by the environment, and GUNICORN_OPTS of ``docker-registry`` overrides them all.
"""

import os

from docker_registry.server.launch import APPLICATION, bind_address, default_workers, number

wsgi_app = APPLICATION
worker_class = "docker_registry.server.worker.RegistryWorker"
logger_class = "docker_registry.server.access_log.AccessLog"

bind = bind_address(os.environ)
workers = number(os.environ, "GUNICORN_WORKERS", default_workers())

# Connections that one worker serves at a time.
worker_connections = 2000

# A transfer may take an hour; a worker whose event loop hangs for the timeout is replaced.
graceful_timeout = number(os.environ, "GUNICORN_GRACEFUL_TIMEOUT", 3600)
timeout = number(os.environ, "GUNICORN_SILENT_TIMEOUT", 60)

# Clients reuse a connection for all layers of an image; when the server stops, idle connections are closed at once.
keepalive = 75

accesslog = os.environ.get("GUNICORN_ACCESS_LOG_FILE") or "-"
if accesslog == "none":
    accesslog = None
errorlog = os.environ.get("GUNICORN_ERROR_LOG_FILE") or "-"
if os.environ.get("GUNICORN_USER"):
    user = os.environ["GUNICORN_USER"]
if os.environ.get("GUNICORN_GROUP"):
    group = os.environ["GUNICORN_GROUP"]

# A request for a token names up to a hundred scopes.
limit_request_line = 8190

# For one header: tokens are long, and so is a Range with a thousand parts. The worker limits the whole head equally.
limit_request_field_size = 65536

# Headers of clients and proxies do not change the path or the scheme of a request: a SCRIPT_NAME would bypass the rules
# of a proxy, and contradicting scheme headers would make every request fail.
forwarder_headers = ""
secure_scheme_headers = {}

# Heartbeats of workers are files; on a disk that is busy with layers they would be delayed.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None

# gunicorn's control socket is not used.
control_socket_disable = True
