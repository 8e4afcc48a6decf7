# tailrace as a container: one broker, not root, its data under /var/lib/tailrace.
#
#   docker build -t tailrace .
#   docker run -p 9092:9092 -v tailrace:/var/lib/tailrace -e TAILRACE_ADVERTISED=localhost:9092 tailrace
#
# Every setting of the README's table is an environment variable; docker-compose.yml shows a cluster.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY protocol protocol
COPY wal wal
COPY s3stream s3stream
COPY broker broker
COPY bench bench
COPY drills drills
RUN python -m venv /opt/tailrace && /opt/tailrace/bin/pip install --no-cache-dir . && \
    /opt/tailrace/bin/pip uninstall -y pip

FROM python:3.13-slim
# Both directories are made here so that volumes mounted over them belong to the user.
RUN useradd --system --uid 10001 --no-create-home tailrace && \
    mkdir -p /var/lib/tailrace /var/lib/tailrace-wal && \
    chown tailrace /var/lib/tailrace /var/lib/tailrace-wal
COPY --from=build /opt/tailrace /opt/tailrace
ENV PATH=/opt/tailrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TAILRACE_DATA_DIR=/var/lib/tailrace \
    TAILRACE_LISTEN=0.0.0.0:9092
USER tailrace
VOLUME /var/lib/tailrace
EXPOSE 9092
STOPSIGNAL SIGTERM
# A broker refuses connections until it serves.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, socket; socket.create_connection(('127.0.0.1', int(os.environ['TAILRACE_LISTEN'].rpartition(':')[2])), 3)"]
ENTRYPOINT ["tailrace"]
CMD ["serve"]
