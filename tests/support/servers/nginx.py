"""A real nginx on a free port of loopback, in front of one or more registries."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import processes
from tests.support.clients import programs

_CONFIGURATION = """
{user}
daemon off;
worker_processes {workers};
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream registry {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://registry;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
        {locations}
    }}
}}
"""


@contextlib.contextmanager
def running_nginx(
    folder: Path, ports: Sequence[int], locations: str = "", workers: int = 1, options: str = ""
) -> Iterator[str]:
    """
    Run nginx for the duration of a ``with`` block and yield its URL.

    Args:
        folder: of its own.
        ports: of the registries, each of which gets requests in its turn.
        locations: more of its configuration.
        workers: processes that serve.
        options: of each server in its group, such as ``max_fails=0``.
    """
    program, port = programs.require("nginx", "nginx-light"), processes.free_port()
    servers = " ".join(f"server 127.0.0.1:{each} {options};" for each in ports)
    user = "user root;" if os.geteuid() == 0 else ""  # a user that may read the files of the registry
    text = _CONFIGURATION.format(
        user=user, folder=folder, servers=servers, port=port, locations=locations, workers=workers
    )
    (folder / "nginx.conf").write_text(text)
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with processes.running(command, folder / "log", lambda: processes.listens(port)):
        yield f"http://127.0.0.1:{port}"
