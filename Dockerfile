# The image of every node of a feclip cluster (cluster.yaml, deploy/kuberay/): Python, the versions of requirements.txt,
# feclip and its jobs, and where asked for the weights of one backbone. deploy/README.md says how to build it.
#
# A slim Python rather than Ray's own image, because Ray's brings a hundred other packages at versions of its own; here
# requirements.txt alone says what runs, Ray included. CUDA comes with torch; the machine brings the driver.
FROM python:3.11-slim-bookworm

# rsync and ssh: Ray's launcher copies files into the container, and starts workers from the head's. wget: KubeRay's probes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/*

# 1000 is also the user of Ubuntu's machine images, so that a token only its owner can read is read here too.
RUN useradd --uid 1000 --create-home --shell /bin/bash ray \
    && install --directory --owner ray --mode 700 /home/ray/.ray
ENV HOME=/home/ray \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

# Into the system's Python: Ray's launcher runs login shells, whose PATH knows no virtual environment.
# A constraint with a hash is checked like a requirement with one, and the development tools stay out.
WORKDIR /home/ray/feclip
COPY pyproject.toml requirements.txt ./
# Compiled here, since the user of a worker may write no bytecode there: each of its processes would compile all it imports.
ENV UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --constraint requirements.txt --extra aws --requirement pyproject.toml

# docker build --build-arg BACKBONE=ViT-L-14-336 .    With weights in it, a node asks no server for any.
ARG BACKBONE=""
ARG PRETRAINED=openai
USER 1000
RUN if [ -n "$BACKBONE" ]; then \
        python -c "import sys, open_clip; open_clip.download_pretrained(open_clip.get_pretrained_cfg(*sys.argv[1:]))" \
            "$BACKBONE" "$PRETRAINED"; \
    fi
ENV HF_HUB_OFFLINE=${BACKBONE:+1}

# Last, because it changes most. Code that `ray job submit --working-dir .` brings comes before it.
USER 0
COPY . .
RUN uv pip install --system --no-cache --no-deps .
USER 1000
