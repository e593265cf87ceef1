"""
API V2: the token endpoint (distribution's token specification, GET; its OAuth2 variant, POST).

::

    {"token": "eyJ…", "access_token": "eyJ…", "expires_in": 300, "issued_at": "2026-11-29T12:00:00Z",
     "scope": "repository:acme/web:pull", "refresh_token": "drt_…"}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import parse_qs

from flask import Blueprint, Response, jsonify, request

from docker_registry.api import requests
from docker_registry.api.client_origin import ClientOrigin
from docker_registry.auth.access_control import AccessControl
from docker_registry.auth.client import Client
from docker_registry.auth.rules.policy import as_client
from docker_registry.auth.tokens import scopes
from docker_registry.auth.tokens.tokens import Tokens
from docker_registry.errors import Invalid, Unauthorized
from docker_registry.http.exchange import CONTEXT

#: A hundred scopes take less.
_MAX_FORM_BYTES: Final = 64 * 1024
_MAX_FIELDS: Final = 200


def blueprint(
    control: AccessControl,
    tokens: Tokens,
    origin: ClientOrigin,
    name_in_scope: Callable[[str], str] = str,
) -> Blueprint:
    """
    Build the blueprint.

    Args:
        name_in_scope: returns the name here of the repository that a scope names, which differs for a mirrored one.
    """
    bp = Blueprint("v2_token", __name__)

    @bp.get("/v2/token")
    def get_token() -> Response:
        """Issue an access token to the user of the Authorization header, or to an anonymous client."""
        client = as_client(requests.principal())
        if client.grant is not None:  # a token must not renew itself
            raise Unauthorized("A password is required for a token.")
        is_offline = request.args.get("offline_token", "").lower() in ("true", "1")
        refresh = _refresh_token(client, request.args.get("client_id", "")) if is_offline else None
        return _response(client, request.args.getlist("scope"), refresh)

    @bp.post("/v2/token")
    def post_token() -> Response:
        """Issue an access token for a password or a refresh token in the form."""
        form = _form()
        kind = _field(form, "grant_type")
        if kind == "password":
            name, password = _field(form, "username"), _field(form, "password")
            client = control.logins.log_in(name, password, origin.address(), for_token=True)
            is_offline = _field(form, "access_type") == "offline"
            refresh = _refresh_token(client, _field(form, "client_id")) if is_offline else None
        elif kind == "refresh_token":
            refresh = _field(form, "refresh_token")
            client = control.log_in_again(refresh, origin.address())
        else:
            raise Invalid("The grant type is not supported.", supported=["password", "refresh_token"])
        request.environ[CONTEXT].principal = client.name
        return _response(client, form.get("scope", []), refresh)

    def _refresh_token(client: Client, name: str) -> str | None:
        if client.is_anonymous or (client.expires != math.inf and client.limits is None):
            return None  # it would outlive the certificate; that of a robot ends with the robot
        version = control.logins.user_version(client.name)
        return None if version is None else tokens.refresh.issue(client.name, name, version)

    def _response(client: Client, wanted: Sequence[str], refresh: str | None) -> Response:
        grant = control.grant(client, scopes.parse(wanted, name_in_scope))
        user = "" if client.is_anonymous else client.name
        version = client.version or control.logins.user_version(user) or ""
        issued = tokens.access.issue(user, version, grant, client.groups, client.expires)
        issued_at = datetime.fromtimestamp(issued.issued_at, timezone.utc)
        content: dict[str, Any] = {
            "token": issued.text,
            "access_token": issued.text,
            "expires_in": issued.seconds,
            "issued_at": issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": str(grant),
        }
        if refresh is not None:
            content["refresh_token"] = refresh
        response = jsonify(content)
        response.headers["Cache-Control"] = "no-store"
        return response

    return bp


def _form() -> Mapping[str, list[str]]:
    """
    Raises:
        Invalid: the body is not a form.
    """
    try:
        text = requests.read_body(_MAX_FORM_BYTES).decode("ascii")
        return parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise Invalid("The body is not a form.") from None


def _field(form: Mapping[str, list[str]], name: str) -> str:
    values = form.get(name, [""])
    if len(values) > 1:
        raise Invalid("The form has a field twice.", field=name)
    return values[0]
