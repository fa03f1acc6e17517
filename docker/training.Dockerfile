# Fine-tuning with NeMo AutoModel on NVIDIA GPUs (`recipes.train profile=gpu|node`).
# NEVER BUILT, NEVER RUN: neither a GPU nor NVIDIA's image was there, and AutoModel 0.7.0 was tested with torch 2.13.0, not
# with the torch 2.12 that NVIDIA's image has.
#
# Why not nvcr.io/nvidia/nemo-automodel: its newest known tag, 26.06.00, brings AutoModel 0.5.0, and our trainer and its
# tests stand on 0.7.0. The PyTorch image brings torch, NCCL and CUDA, and no NeMo that would have to be replaced.
#
# Build, at the repository's root:
#   docker build -f docker/training.Dockerfile -t throughline/training:0.1.0 .
# Run, one node with eight GPUs (docker/slurm/train.sbatch is the same under Slurm):
#   docker run --rm --init --gpus all --ipc host --ulimit memlock=-1 --ulimit stack=67108864 \
#     -v "$PWD/artifacts:/work/artifacts" throughline/training:0.1.0 \
#     torchrun --standalone --nproc-per-node 8 -m recipes.train profile=node

FROM nvcr.io/nvidia/pytorch:26.05-py3
LABEL org.opencontainers.image.title="throughline training"
WORKDIR /opt/throughline
COPY requirements.lock docker/subset.py docker/training.packages docker/add_missing.sh ./
COPY src/throughline src/throughline
COPY recipes recipes
# Only what is missing, and the build fails if one of NVIDIA's own packages has changed.
RUN bash add_missing.sh requirements.lock training.packages \
    && install -d -o 1000 -g 1000 /work/artifacts
ENV PYTHONPATH=/opt/throughline/src:/opt/throughline \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    WANDB_MODE=offline \
    HYDRA_FULL_ERROR=0
WORKDIR /work
USER 1000:1000
STOPSIGNAL SIGTERM
CMD ["python", "-m", "recipes.train", "profile=gpu"]
