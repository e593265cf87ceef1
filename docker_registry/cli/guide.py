"""Examples and environment variables in the help texts of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

#: Environment variables, and what they mean.
_VARIABLES: Final = {
    "DOCKER_REGISTRY_CONFIG": "the configuration file",
    "SETTINGS_FLAVOR": "the flavor of the configuration, by default dev",
    "STORAGE_PATH": "the folder of the store, or a prefix in a bucket",
    "REGISTRY_HOST": "the address to listen on",
    "REGISTRY_PORT": "the port, by default 5000",
    "GUNICORN_WORKERS": "the number of worker processes",
    "GUNICORN_GRACEFUL_TIMEOUT": "seconds that transfers may take after SIGTERM",
    "REGISTRY_DRAIN_DELAY": "seconds after SIGTERM in which connections are still accepted",
    "REGISTRY_AUDIT_LOG": "the audit log, in which changes are recorded",
    "REGISTRY_AUTH_HTPASSWD": "the file of users",
    "REGISTRY_AUTH_RULES": "the file of rules",
    "SEARCH_BACKEND": "the search index, such as sqlalchemy",
    "DOCKER_REGISTRY_PASSWORD": "the password of --user",
    "CACHE_REDIS_HOST": "the host of Redis, which has the queue",
}

_STORE: Final = ("DOCKER_REGISTRY_CONFIG", "SETTINGS_FLAVOR", "STORAGE_PATH")


class Guide(NamedTuple):
    """
    The part of a help text after the options.

    Attributes:
        examples: commands without ``docker-registry``, each with its purpose.
        variables: names of environment variables.
    """

    examples: Sequence[tuple[str, str]]
    variables: Sequence[str] = _STORE

    def text(self) -> str:
        """Return the text."""
        rows = [line for command, purpose in self.examples for line in (f"  # {purpose}", f"  {command}", "")]
        width = max(map(len, self.variables), default=0)
        named = [f"  {name:{width}}  {_VARIABLES[name]}" for name in self.variables]
        environment = ["environment variables:", *named, "  (all others: docs/settings.md)"] if named else []
        return "\n".join(["examples:", *rows, *environment])


#: The text of ``docker-registry --help`` after the commands.
OVERVIEW: Final = Guide(
    (
        ("docker-registry", "serve the folder ./registry-data on port 5000"),
        ("STORAGE_PATH=/srv/registry REGISTRY_PORT=8080 docker-registry", "another folder, another port"),
        ("docker-registry check && docker-registry config", "verify the configuration, and look at it"),
        ("docker-registry COMMAND --help", "learn a command"),
    ),
    (*_STORE, "REGISTRY_HOST", "REGISTRY_PORT", "GUNICORN_WORKERS"),
)

#: By the name of the command.
GUIDES: Final = {
    "serve": Guide(
        (
            ("docker-registry serve", "serve the folder ./registry-data on port 5000"),
            ("SETTINGS_FLAVOR=s3 AWS_BUCKET=images docker-registry serve", "serve a bucket"),
            ("kill -HUP $PID", "reread the configuration; no request is lost"),
            ("kill -USR2 $PID", "start a successor with new code on the same port"),
        ),
        (
            *_STORE,
            "REGISTRY_HOST",
            "REGISTRY_PORT",
            "GUNICORN_WORKERS",
            "GUNICORN_GRACEFUL_TIMEOUT",
            "REGISTRY_DRAIN_DELAY",
        ),
    ),
    "check": Guide(
        (
            ("docker-registry check", "verify configuration and store; status 2 if the server could not start"),
            ("SETTINGS_FLAVOR=prod docker-registry check --json", "another flavor, for a program"),
        ),
        (*_STORE, "REGISTRY_HOST", "REGISTRY_PORT", "GUNICORN_WORKERS"),
    ),
    "config": Guide(
        (
            ("docker-registry config", "print the settings in force as YAML"),
            ("docker-registry config --schema > registry.schema.json", "let an editor complete and check config.yml"),
        )
    ),
    "migrate": Guide(
        (
            ("docker-registry migrate --dry-run", "report which layers would be converted"),
            ("docker-registry migrate", "convert; may be interrupted and repeated; status 1: repeat it"),
        )
    ),
    "reindex": Guide(
        (("docker-registry reindex", "rebuild the search index after its loss"),), (*_STORE, "SEARCH_BACKEND")
    ),
    "readonly": Guide(
        (
            ("docker-registry readonly on --why 'Moving to another bucket until 14:00.'", "refuse writes on all hosts"),
            ("docker-registry readonly status", "show whether writes are refused"),
            ("docker-registry readonly off", "allow writes again"),
        ),
        (*_STORE, "REGISTRY_AUDIT_LOG"),
    ),
    "mirror": Guide(
        (
            ("docker-registry mirror status", "show whether upstreams are reachable, and what was saved"),
            ("docker-registry mirror check", "ask each upstream whether it accepts requests"),
            ("docker-registry mirror warm docker.io/library/alpine:3.20 --platform linux/amd64", "fetch an image"),
            ("docker-registry mirror warm images.txt", "fetch the images in a list, one a line"),
            ("docker-registry mirror purge docker.io/library/alpine", "remove what was fetched"),
        ),
    ),
    "private": Guide(
        (
            ("docker-registry private list", "list the private repositories"),
            ("docker-registry private clear acme/web", "make one public"),
        ),
        (*_STORE, "REGISTRY_AUDIT_LOG"),
    ),
    "user": Guide(
        (
            ("docker-registry user add alice", "add a user; the password is asked for"),
            ("echo s3cret | docker-registry user passwd alice", "change a password from a script"),
            ("docker-registry user list --json", "list the users, for a program"),
        ),
        ("DOCKER_REGISTRY_CONFIG", "SETTINGS_FLAVOR", "REGISTRY_AUTH_HTPASSWD", "REGISTRY_AUDIT_LOG"),
    ),
    "access": Guide(
        (
            ("docker-registry access check alice push acme/web:v1", "explain whether alice may push a tag"),
            ("docker-registry access check anonymous pull acme/web --address 10.0.0.7", "the same by network"),
        ),
        (*_STORE, "REGISTRY_AUTH_HTPASSWD", "REGISTRY_AUTH_RULES"),
    ),
    "robot": Guide(
        (
            ("docker-registry robot add ci --scope 'acme/**:pull,push' --days 30", "print a token for a pipeline"),
            ("docker-registry robot list", "list robots and their expiry"),
            ("docker-registry robot revoke ci", "revoke one, on all hosts within five seconds"),
        ),
        (*_STORE, "REGISTRY_AUTH_RULES", "REGISTRY_AUDIT_LOG"),
    ),
    "token": Guide(
        (
            ("docker-registry token list", "list refresh tokens, and when they were last used"),
            ("docker-registry token revoke --user alice", "log alice out everywhere"),
        ),
        (*_STORE, "REGISTRY_AUDIT_LOG"),
    ),
    "keys": Guide(
        (
            ("docker-registry keys rotate", "sign with a new key; the old one stays valid for a day"),
            ("docker-registry keys export --jwks > jwks.json", "public keys for another registry"),
        ),
        (*_STORE, "REGISTRY_AUDIT_LOG"),
    ),
    "backup": Guide(
        (
            ("docker-registry backup /backup/registry", "copy the store; repeat it to update the copy"),
            ("docker-registry backup --verify --json /backup/registry", "also verify the copy; status 1: damage"),
        )
    ),
    "restore-backup": Guide(
        (
            ("docker-registry restore-backup /backup/registry", "copy a backup into an empty store"),
            ("SETTINGS_FLAVOR=s3 docker-registry restore-backup /backup/registry", "move a registry into a bucket"),
        ),
        (*_STORE, "REGISTRY_AUDIT_LOG"),
    ),
    "diff-worker": Guide(
        (("CACHE_REDIS_HOST=redis docker-registry diff-worker", "compute queued diffs until SIGTERM"),),
        (*_STORE, "CACHE_REDIS_HOST"),
    ),
    "doctor": Guide(
        (
            (
                "docker-registry doctor https://registry.example.com",
                "push and pull through all proxies; status 1: faults",
            ),
            (
                "docker-registry doctor https://registry.example.com --user ops --silence 0 --json",
                "log in, leave out the pause of two minutes, report to a program",
            ),
        ),
        ("DOCKER_REGISTRY_PASSWORD",),
    ),
    "garbage-collect": Guide(
        (("docker-registry garbage-collect", "explain that nothing is deleted; status 2"),),
        (),
    ),
    "completion": Guide(
        (
            ("docker-registry completion bash > /etc/bash_completion.d/docker-registry", "for all users of bash"),
            ("docker-registry completion zsh > ~/.zfunc/_docker-registry", "for zsh"),
        ),
        (),
    ),
}
