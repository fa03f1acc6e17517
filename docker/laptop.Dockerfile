# Everything on a CPU: training, engines, the real Triton, the gateway and the benchmarks.
# Never built yet: no daemon was there.
#
# Build, at the repository's root:
#   docker build -f docker/laptop.Dockerfile -t throughline/laptop:0.1.0 .
# Run what `make run` runs, and keep what it makes in a volume (ARGS go behind the image as a command of their own):
#   docker run --rm --init --shm-size 1g -v throughline-artifacts:/app/artifacts throughline/laptop:0.1.0
#   docker run --rm --init --shm-size 1g -v throughline-artifacts:/app/artifacts throughline/laptop:0.1.0 \
#     python -m recipes.lifecycle debug=fast

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="throughline laptop" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home throughline
WORKDIR /app
# The set-up of `make setup`, before the rest of the tree: a changed source file does not install 230 packages again.
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src/throughline/__init__.py src/throughline/bootstrap.py src/throughline/
COPY recipes/__init__.py recipes/
RUN python src/throughline/bootstrap.py --torch cpu
COPY . .
RUN install -d -o throughline -g throughline artifacts model_repository
# As the Makefile sets them.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GOMP_SPINCOUNT=1000 \
    WANDB_MODE=offline \
    HYDRA_FULL_ERROR=0
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "recipes.lifecycle"]
