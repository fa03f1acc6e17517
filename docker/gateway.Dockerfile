# The OpenAI-compatible gateway alone: no engine, no torch, no pip in its environment; 180 MB of packages on Python's slim
# image. Never built yet: no daemon was there.
#
# Build, at the repository's root:
#   docker build -f docker/gateway.Dockerfile -t throughline/gateway:0.1.0 .
# Run, before a Triton that is called `triton` in the network `serving` (docker/compose.yaml starts both):
#   docker run --rm --init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --network serving \
#     -p 127.0.0.1:8080:8080 -v "$PWD/docker/gateway.json:/etc/throughline/gateway.json:ro" \
#     -v "$THROUGHLINE_ENGINE:/engine:ro" throughline/gateway:0.1.0

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock docker/subset.py docker/gateway.packages ./
# The environment itself has no pip: --python installs into it from outside.
RUN python subset.py requirements.lock gateway.packages > subset.txt \
    && python -m venv --without-pip /opt/gateway \
    && python -m pip --python /opt/gateway/bin/python install --no-cache-dir --no-deps --require-hashes \
        --only-binary :all: -r subset.txt
COPY src/throughline/__init__.py src/throughline/stop_words.py src/throughline/vocabulary.py /opt/gateway/lib/python3.11/site-packages/throughline/
COPY src/throughline/contracts /opt/gateway/lib/python3.11/site-packages/throughline/contracts
COPY src/throughline/gateway /opt/gateway/lib/python3.11/site-packages/throughline/gateway
# On a read-only root nothing can be compiled later.
RUN python -m compileall -q /opt/gateway/lib/python3.11/site-packages/throughline

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="throughline gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=2)"]
CMD ["python", "-m", "throughline.gateway", "--spec", "/etc/throughline/gateway.json"]
