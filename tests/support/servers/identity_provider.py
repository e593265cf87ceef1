"""A server of another service's keys, over https: a token server's key set, or an OpenID Connect provider."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm


class Key:
    """A key of the service, and the tokens that it signs."""

    def __init__(self, key_id="one"):
        self.key_id = key_id
        self.private = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_pem(self):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form)

    def jwk(self):
        return {**ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True), "kid": self.key_id, "use": "sig"}

    def sign(self, claims, **header):
        return jwt.encode(claims, self.private, "ES256", {"kid": self.key_id, **header})

    def certificate(self):
        """A self-signed certificate of the key, valid for 127.0.0.1."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = x509.CertificateBuilder(name, name, self.private.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day).add_extension(address, critical=False)
        public = self.private.public_key()
        for extension, critical in (  # Python verifies strictly from 3.13 on
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_set(*keys):
    return json.dumps({"keys": [key.jwk() for key in keys]}).encode()


class IdentityProvider:
    """
    Serves documents by path; a context manager.

    Attributes:
        documents: the bytes at each path, a status, or a status with the number of bytes that follow.
        requests: the paths that were requested.
        sent_bytes: of the last body, once it was sent or its client has left; None before.
        ca: file of its certificate.
    """

    def __init__(self, folder: Path):
        self.documents = {}
        self.requests = []
        self.sent_bytes = None
        self.ca = folder / "provider.pem"
        own = Key()
        own_key = own.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate = own.certificate()
        self.ca.write_bytes(certificate)
        both = folder / "provider-with-key.pem"
        both.write_bytes(certificate + own_key)
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.sent_bytes = None
                provider.requests.append(self.path)
                found = provider.documents.get(self.path, 404)
                if isinstance(found, int):
                    found = (found, 0)
                status, length = found if isinstance(found, tuple) else (200, len(found))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.send_header("Location", "/elsewhere")
                sent = 0
                try:
                    self.end_headers()
                    while sent < length:
                        block = bytes(65536) if isinstance(found, tuple) else found
                        self.wfile.write(block)
                        sent += len(block)
                finally:
                    provider.sent_bytes = sent

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
