"""The WSGI application, built from the configuration; the only module with side effects at import."""

from __future__ import annotations

import os
import sys

from docker_registry import housekeeping
from docker_registry.app import create_app
from docker_registry.config.schema import load_config
from docker_registry.errors import RegistryError
from docker_registry.logs.setup import start_logging
from docker_registry.services import build

#: Exit status of a worker that cannot boot: gunicorn stops on it, but restarts workers that exit with any other status.
_CANNOT_BOOT = 3

try:
    _config = load_config(os.environ)
    start_logging(_config.loglevel, _config.log_format)
    _services = build(_config)
    _services.check_start()
    _services.error_reporting.watch()
    application = create_app(_services)
except RegistryError as error:
    print(f"docker-registry: {error}", file=sys.stderr)
    sys.exit(_CANNOT_BOOT)

housekeeping.start(_services)
