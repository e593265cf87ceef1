# docker build -t registry . && docker run -p 5000:5000 -v registry:/var/lib/registry registry
FROM python:3.13-slim

COPY . /usr/src/docker-registry
RUN pip install --no-cache-dir /usr/src/docker-registry \
    && rm -rf /usr/src/docker-registry \
    && groupadd --system --gid 999 registry \
    && useradd --system --uid 999 --gid 999 --home-dir /var/lib/registry --create-home registry

# Where registry:2 keeps its data too, so a volume of either one can be mounted here.
ENV STORAGE_PATH=/var/lib/registry
# Load balancers need a moment to notice that a container stops.
ENV REGISTRY_DRAIN_DELAY=5
WORKDIR /var/lib/registry
# By number: Kubernetes cannot see that a name is not root (runAsNonRoot).
USER 999:999
VOLUME /var/lib/registry
EXPOSE 5000

CMD ["docker-registry"]
