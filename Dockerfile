# Pin the base image by its digest, which only the registry knows:
#   docker buildx imagetools inspect python:3.13-slim-trixie
#   docker build --build-arg PYTHON=python:3.13-slim-trixie@sha256:… .
ARG PYTHON=python:3.13-slim-trixie

# Two environments: /build makes the wheels and stays in this stage, /opt/cohorts runs them. Every package is locked by its hash.
# python-ldap has no wheel: it is compiled here, and linked with the libldap that is installed below.
FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libldap2-dev libsasl2-dev
WORKDIR /src
COPY requirements-build.lock requirements-extras.lock ./
RUN python -m venv /build \
    && /build/bin/pip install --require-hashes --only-binary=:all: --requirement requirements-build.lock
RUN /build/bin/pip wheel --require-hashes --only-binary=:all: --no-binary=python-ldap --no-build-isolation \
    --wheel-dir /wheels --requirement requirements-extras.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY worker worker
RUN /build/bin/hatchling build --target wheel \
    && python -m venv --without-pip /opt/cohorts \
    && /build/bin/pip --python /opt/cohorts/bin/python install --no-deps --no-index /wheels/*.whl dist/*.whl

# Nothing but Python, libldap, the environment and a user. It runs with a read-only root file system:
#   docker run --read-only --tmpfs /tmp --volume cohorts:/var/lib/etape-cohorts --volume ./cohorts.toml:/etc/etape-cohorts/cohorts.toml:ro …
FROM ${PYTHON}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libldap2 \
    && rm -rf /var/lib/apt/lists/*
RUN python -m pip uninstall --yes --root-user-action=ignore pip \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/etape-cohorts cohorts \
    && install -d -m 0700 -o cohorts -g cohorts /var/lib/etape-cohorts
COPY --from=build /opt/cohorts /opt/cohorts
USER 10001:10001
WORKDIR /var/lib/etape-cohorts
ENV PATH=/opt/cohorts/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    COHORTS_CONFIG=/etc/etape-cohorts/cohorts.toml \
    COHORTS_WEB__HOST=0.0.0.0
EXPOSE 9464
# For the worker: a stuck loop makes it fail; an outage of Kafka or of a Moodle doesn't.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/livez', timeout=5)"]
ENTRYPOINT ["cohorts"]
CMD ["run"]
