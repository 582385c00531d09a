FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY worker worker
RUN python -m venv /opt/cohorts \
    && /opt/cohorts/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock \
    && /opt/cohorts/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
COPY --from=build /opt/cohorts /opt/cohorts
RUN useradd --system --uid 10001 cohorts && install -d -o cohorts /var/lib/etape-cohorts
USER cohorts
WORKDIR /var/lib/etape-cohorts
ENV PATH=/opt/cohorts/bin:$PATH COHORTS_CONFIG=/etc/etape-cohorts/cohorts.toml
EXPOSE 9464
ENTRYPOINT ["cohorts"]
CMD ["run"]
