"""A client of API V1 with one function for each of Docker's operations."""

from __future__ import annotations

import json

import requests

TIMEOUT_SECONDS = 60

#: The User-Agent of Docker 1.5.0.
DOCKER = "docker/1.5.0 go/go1.4.1 git-commit/a8a31ef kernel/3.13.0-24-generic os/linux arch/amd64"


class Docker:
    """
    One old Docker.

    Attributes:
        session: for requests that have no method here.
    """

    def __init__(self, url, user_agent=DOCKER):
        self.url = f"{url}/v1"
        self.session = requests.Session()
        self.session.headers["User-Agent"] = user_agent

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()

    def ask(self, method, path, **options):
        """Send a request and return the response, whatever its status."""
        return self.session.request(method, self.url + path, timeout=TIMEOUT_SECONDS, allow_redirects=False, **options)

    def get(self, path, **options):
        return self.ask("GET", path, **options)

    def put(self, path, data=b"", **options):
        return self.ask("PUT", path, data=data, **options)

    def push_images(self, *images, chunk=1000):
        """Push images, the base first; their layers in chunks."""
        for image in images:
            done(self.put(f"/images/{image.text}/json", image.payload), 200)
            chunks = (image.layer[start : start + chunk] for start in range(0, len(image.layer), chunk))
            done(self.put(f"/images/{image.text}/layer", chunks), 200)
            headers = {"X-Docker-Checksum": "tarsum+sha256:0", "X-Docker-Checksum-Payload": image.payload_sum}
            done(self.put(f"/images/{image.text}/checksum", headers=headers), 200)

    def push(self, name, tag, *images):
        """Push a chain of images, base first, and tag the last one."""
        listed = [{"id": image.text} for image in images]
        listed[-1]["Tag"] = tag
        done(self.put(f"/repositories/{name}/", json.dumps(listed)), 200)
        missing = [image for image in images if self.get(f"/images/{image.text}/json").status_code != 200]
        self.push_images(*missing)
        done(self.put(f"/repositories/{name}/tags/{tag}", json.dumps(images[-1].text)), 200)
        done(self.put(f"/repositories/{name}/images", "[]"), 204)

    def pull(self, name, tag):
        """Pull a tag: the JSON and the layer of each image, the base first."""
        done(self.get(f"/repositories/{name}/images"), 200)
        top = done(self.get(f"/repositories/{name}/tags/{tag}"), 200).json()
        pulled = []
        for text in reversed(done(self.get(f"/images/{top}/ancestry"), 200).json()):
            image = done(self.get(f"/images/{text}/json"), 200)
            layer = done(self.get(f"/images/{text}/layer"), 200)
            assert image.headers["X-Docker-Size"] == str(len(layer.content))
            pulled.append((text, image.content, layer.content))
        return pulled


def done(answer, status):
    """Return a response after checking its status."""
    assert status == answer.status_code, f"{answer.request.method} {answer.request.url}: {answer.text[:500]}"
    return answer


def error(answer):
    """Return the status and the message of an error."""
    assert "application/json" == answer.headers["Content-Type"]
    assert "no-cache" == answer.headers["Cache-Control"]
    return answer.status_code, answer.json()["error"]
