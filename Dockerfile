# The pinned environment (constraints.txt), and nothing of the project but what installs it: the code is that of the folder in
# which the workflow runs. docs/clusters.md says how to build and use it.
FROM python:3.11-slim-bookworm

# cuda: PyPI's build of the pinned torch, which brings its own CUDA libraries; the host gives the driver.
ARG TORCH=cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/beamlora
COPY . .
RUN PIP_NO_CACHE_DIR=1 tools/setup.sh --torch "$TORCH" --installer pip
ENV PATH=/opt/beamlora/.venv/bin:$PATH
WORKDIR /work
