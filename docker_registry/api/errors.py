"""
Converts errors into responses, for both APIs.

Services raise, views never catch. The class of an error determines the status and, under ``/v2/``, the code from the
OCI Distribution Specification ("Error codes"; a 4xx response may use no other codes)::

    {"errors": [{"code": "BLOB_UNKNOWN", "message": "The repository has no such blob.", "detail": {"digest": …}}]}

Elsewhere, and everywhere if API V2 is disabled, the format is that of API V1: ``{"error": "Image not found"}``.
Docker 1.10 to 17.05 falls back to API V1 only after a response that is not in the format of V2.
"""

from __future__ import annotations

import json
import logging
from typing import Final, cast

from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from docker_registry import errors
from docker_registry.api.flask_app import Application, PlainResponse, current_request
from docker_registry.api.responses import JSON
from docker_registry.error_reports.report import ERROR_ATTRIBUTE, SECRETS_ATTRIBUTE
from docker_registry.errors import Overloaded, RegistryError
from docker_registry.http.exchange import CONTEXT

logger = logging.getLogger(__name__)

#: Status and OCI code by error class. The nearest class in the method resolution order applies.
RESPONSES: Final[dict[type[RegistryError], tuple[int, str]]] = {
    errors.NameInvalid: (400, "NAME_INVALID"),
    errors.TagInvalid: (400, "MANIFEST_INVALID"),
    errors.DigestInvalid: (400, "DIGEST_INVALID"),
    errors.UploadInvalid: (400, "BLOB_UPLOAD_INVALID"),
    errors.PageInvalid: (400, "UNSUPPORTED"),
    errors.SizeInvalid: (400, "SIZE_INVALID"),
    errors.ManifestInvalid: (400, "MANIFEST_INVALID"),
    errors.RangeInvalid: (416, "BLOB_UPLOAD_INVALID"),
    errors.Invalid: (400, "UNSUPPORTED"),
    errors.TooLarge: (413, "SIZE_INVALID"),
    errors.NameUnknown: (404, "NAME_UNKNOWN"),
    errors.BlobUnknown: (404, "BLOB_UNKNOWN"),
    errors.ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    errors.UploadUnknown: (404, "BLOB_UPLOAD_UNKNOWN"),
    errors.ManifestBlobUnknown: (404, "MANIFEST_BLOB_UNKNOWN"),
    errors.NotFound: (404, "UNSUPPORTED"),
    # Raised by API V1 only, which has no codes.
    errors.ImageUnfinished: (400, "UNSUPPORTED"),
    errors.ImageExists: (409, "UNSUPPORTED"),
    errors.ChecksumUnexpected: (409, "UNSUPPORTED"),
    errors.DiffUnavailable: (400, "UNSUPPORTED"),
    errors.RangeNotSatisfiable: (416, "SIZE_INVALID"),
    errors.TagChanged: (412, "DENIED"),
    errors.TagImmutable: (409, "DENIED"),
    errors.Unauthorized: (401, "UNAUTHORIZED"),
    errors.Denied: (403, "DENIED"),
    errors.TooManyAttempts: (429, "TOOMANYREQUESTS"),
    errors.ConditionUnsupported: (501, "UNSUPPORTED"),
    errors.Unsupported: (405, "UNSUPPORTED"),
    errors.ClientLeft: (400, "UNSUPPORTED"),  # the client has disconnected and receives nothing
    errors.AuthorityUnavailable: (503, "UNAVAILABLE"),
    errors.Overloaded: (503, "TOOMANYREQUESTS"),
    errors.UpstreamUnavailable: (503, "UNAVAILABLE"),
    errors.UpstreamTimeout: (504, "UNAVAILABLE"),
    errors.UpstreamLimited: (429, "TOOMANYREQUESTS"),
    errors.UpstreamError: (502, "UNAVAILABLE"),
    errors.StorageFull: (507, "STORAGE_FULL"),
    errors.StorageUnavailable: (503, "UNAVAILABLE"),
    errors.StorageError: (500, "UNKNOWN"),
    errors.RegistryError: (500, "UNKNOWN"),
}

_HTTP_CODES: Final = {401: "UNAUTHORIZED", 403: "DENIED", 413: "SIZE_INVALID", 429: "TOOMANYREQUESTS"}

#: Errors whose details are not sent to clients, because they may contain paths or the text of exceptions.
_PRIVATE: Final = (errors.StorageError, errors.ConfigError)

#: Key of the error code of RFC 6750 in the WSGI environment, for the challenge.
AUTHENTICATION_ERROR: Final = "docker_registry.authentication_error"

_to_json: Final = json.JSONEncoder(sort_keys=True).encode

#: Seconds after which clients should retry when the store is unavailable or the worker is overloaded.
_RETRY_AFTER_SECONDS: Final = 5


def install(app: Application, *, v2: bool) -> None:
    """
    Install the error handler of an application.

    Args:
        v2: whether API V2 is served.
    """
    app.serves_v2 = v2
    # On the application and not per blueprint: a URL that matches no route belongs to no blueprint.
    app.register_error_handler(Exception, to_response)


def to_response(error: Exception) -> Response:
    """Return the response to an error, in the format of the requested API."""
    if isinstance(error, errors.SizeInvalid) and getattr(request.environ["wsgi.input"], "is_cut_off", False):
        error = Overloaded()  # the worker cut the body off, not the client
    if isinstance(error, RegistryError):
        return _registry_error(error)
    if isinstance(error, HTTPException):
        return _http_error(error)
    logger.exception("%s %s failed", request.method, request.path, extra={SECRETS_ATTRIBUTE: _credentials()})
    return _envelope(500, "UNKNOWN", "Internal error. See the registry log.", {})


def status_and_code(error: type[RegistryError]) -> tuple[int, str]:
    """Return the status and the OCI code for an error class."""
    return next(RESPONSES[base] for base in error.__mro__ if base in RESPONSES)


def _registry_error(error: RegistryError) -> Response:
    status, code = status_and_code(type(error))
    if isinstance(error, errors.Overloaded | errors.AuthorityUnavailable | errors.UpstreamError):
        logger.warning("%s %s: %s", request.method, request.path, error)
    elif status >= 500:
        extra = {ERROR_ATTRIBUTE: error, SECRETS_ATTRIBUTE: _credentials()}
        logger.error("%s %s: %s", request.method, request.path, error, extra=extra)
    response = _envelope(status, code, error.sentence, {} if isinstance(error, _PRIVATE) else error.detail)
    if isinstance(error, errors.RangeInvalid):
        # end-5, end-6: the current offset, so that the client can continue without another request.
        response.headers["Range"] = f"0-{max(error.size - 1, 0)}"
        response.headers["Location"] = request.path
    elif isinstance(error, errors.RangeNotSatisfiable):
        response.headers["Content-Range"] = f"bytes */{error.size}"
        if not _is_v2():
            response.set_data(b"")  # Docker may resume a layer that is already complete
    elif isinstance(error, errors.Unauthorized):
        request.environ[AUTHENTICATION_ERROR] = error.error
    elif isinstance(error, errors.TooManyAttempts | errors.UpstreamLimited):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    elif status == 503:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return response


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = _HTTP_CODES.get(status, "UNSUPPORTED" if status < 500 else "UNKNOWN")
    response = _envelope(status, code, error.description or error.name, {})
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _credentials() -> frozenset[str]:
    """Return the secrets of the request, whole and in parts; reports of its error must not contain them."""
    header, cookies = request.headers.get("Authorization", ""), request.headers.get("Cookie", "")
    found = {header, header.partition(" ")[2].strip(), cookies, *request.cookies.values()}
    if request.authorization is not None and request.authorization.password:
        found.add(request.authorization.password)
    return frozenset(found - {""})


def _envelope(status: int, code: str, message: str, detail: dict[str, object]) -> Response:
    content: dict[str, object]
    if _is_v2():
        entry = {"code": code, "message": message}
        if status >= 500 and (request_id := request.environ[CONTEXT].request_id):
            detail = {**detail, "request_id": request_id}
        content = {"errors": [entry | {"detail": detail} if detail else entry]}
    else:
        content = {"error": message}
    body = _to_json(content).encode()
    return PlainResponse(status, {"Content-Type": JSON, "Content-Length": str(len(body))}, [body])


def _is_v2() -> bool:
    return cast(Application, current_app).serves_v2 and current_request().path.startswith("/v2")
