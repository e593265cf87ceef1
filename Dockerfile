# docker build -t registry . && docker run -p 5000:5000 -v registry:/var/lib/registry registry
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
COPY . /usr/src/docker-registry
RUN python3 -m venv /opt/docker-registry \
    && /opt/docker-registry/bin/pip install --no-cache-dir \
        "/usr/src/docker-registry[azure,bugsnag,gcs,glance,ldap,mirror,mysql,otel,postgresql,redis,s3,sentry,swift]" \
    && find /opt/docker-registry -name __pycache__ -prune -exec rm -rf {} + \
    && rm -rf /opt/docker-registry/lib/python3*/site-packages/pip /opt/docker-registry/lib/python3*/site-packages/pip-*
# Compile what each start imports; in a container nothing can be written there. COPY rounds times to seconds, so sources
# with other times would look changed.
RUN find /opt/docker-registry -name '*.py' -exec touch --date="@$(date +%s)" {} + \
    && cd /tmp && SETTINGS_FLAVOR=memory /opt/docker-registry/bin/docker-registry check

FROM ${BASE}
LABEL org.opencontainers.image.title="docker-registry" \
    org.opencontainers.image.description="A registry server for container images" \
    org.opencontainers.image.version="1.0.0.dev0" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="https://github.com/dotcloud/docker-registry" \
    org.opencontainers.image.url="https://github.com/dotcloud/docker-registry" \
    org.opencontainers.image.documentation="https://github.com/dotcloud/docker-registry/tree/main/docs"

COPY --from=build /opt/docker-registry /opt/docker-registry
COPY contrib/image/entrypoint /usr/local/bin/docker-registry-entrypoint
COPY contrib/image/healthcheck.py /usr/share/docker-registry/
RUN groupadd --system --gid 999 registry \
    && useradd --system --uid 999 --gid 999 --home-dir /var/lib/registry --create-home registry \
    && chmod 755 /usr/local/bin/docker-registry-entrypoint \
    && ln -s /opt/docker-registry/bin/docker-registry /opt/docker-registry/bin/registry /usr/local/bin/ \
    && ln -s /opt/docker-registry/bin/registry /bin/registry

# The flavor stores files in /var/lib/registry, as registry:2 does, so a volume of either one can be mounted here.
# Load balancers need a moment to notice that a container stops.
ENV SETTINGS_FLAVOR=local \
    REGISTRY_DRAIN_DELAY=5 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/registry
# By number: Kubernetes cannot see that a name is not root (runAsNonRoot).
USER 999:999
VOLUME /var/lib/registry
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["docker-registry-entrypoint", "healthcheck"]

ENTRYPOINT ["docker-registry-entrypoint"]
CMD ["docker-registry"]
