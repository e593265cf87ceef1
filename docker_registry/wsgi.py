"""The WSGI application, made from the configuration: the one module whose import does work."""

from __future__ import annotations

import os
import sys

from docker_registry.app import create_app, create_registry, start_housekeeping
from docker_registry.config import load_config
from docker_registry.errors import RegistryError
from docker_registry.logs import start_logging

#: gunicorn stops altogether when a worker ends like this while it boots; any other way it would try again for ever.
_CANNOT_BOOT = 3

try:
    _config = load_config(os.environ)
    start_logging(_config.loglevel)
    _registry = create_registry(_config)
    application = create_app(_config, _registry)
except RegistryError as error:
    print(f"docker-registry: {error}", file=sys.stderr)
    sys.exit(_CANNOT_BOOT)

start_housekeeping(application, _registry, _config)
