# TensorRT-LLM engines on Triton: builds them (the jobs of `recipes.build engine=gpu`) and serves them.
# NEVER BUILT, NEVER RUN: neither a GPU nor NVIDIA's image was there. It needs driver 590 or newer, and about 14 GB.
#
# The tag is that of src/throughline/engines/tensorrt/commands.py: 26.07 ships TensorRT-LLM 1.2.1, the last series with
# engines, and an engine runs only under the version that built it.
#
# Build, at the repository's root:
#   docker build -f docker/serving-gpu.Dockerfile -t throughline/serving-gpu:0.1.0 .
# Build an engine of a job (its build.sh says what it takes), then serve a model repository:
#   docker run --rm --gpus all --ipc host --user 0 -v "$JOB:/job" -v "$CHECKPOINT:/checkpoint" -v "$OUTPUT:/output" \
#     throughline/serving-gpu:0.1.0 bash /job/build.sh
#   docker run --rm --init --gpus all --shm-size 8g --ulimit memlock=-1 -p 127.0.0.1:8000-8002:8000-8002 \
#     -v "$REPOSITORY:/models:ro" -v "$ENGINES:/engines:ro" throughline/serving-gpu:0.1.0

FROM nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
LABEL org.opencontainers.image.title="throughline serving on GPU"
WORKDIR /opt/throughline
COPY requirements.lock docker/subset.py docker/serving-gpu.packages docker/add_missing.sh ./
COPY src/throughline src/throughline
COPY recipes recipes
# Only what is missing, and the build fails if one of NVIDIA's own packages has changed.
RUN bash add_missing.sh requirements.lock serving-gpu.packages
ENV PYTHONPATH=/opt/throughline/src:/opt/throughline \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /tmp
# The image's own user `triton-server`.
USER 1000:1000
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--max-time", "4", "http://127.0.0.1:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models", "--strict-readiness=true", "--exit-timeout-secs=70", \
     "--http-port=8000", "--grpc-port=8001", "--metrics-port=8002", "--log-format=ISO8601"]
