# Triton, with the tools that download, export and build its models: HTTP, gRPC and metrics on 8000 to 8002.
# From the repository's root:
#   docker build --file deploy/docker/triton.Dockerfile --tag samserve-triton:0.3.0 \
#     --build-arg TENSORRT_VERSION=... --build-arg PIP_EXTRA_INDEX_URL=... .
# The base image has NVIDIA's license.

# A digest pins a base image to the bytes that you have tested: @sha256:... of the tag below, from your registry.
ARG PYTHON_DIGEST=
ARG TRITON_DIGEST=

# This stage is the same in all images, so it is built once.
FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST} AS wheel
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY protos protos
COPY services services
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM nvcr.io/nvidia/tritonserver:26.06-py3${TRITON_DIGEST} AS packages
# TensorRT's version in Triton's release notes. An engine runs only in the version that built it.
# Empty: the image cannot build engines; for clusters without GPUs.
ARG TENSORRT_VERSION=
# Index with the CPU build of torch, which exporting needs. Other builds add gigabytes of CUDA.
ARG PIP_EXTRA_INDEX_URL=
COPY constraints.txt /src/
COPY --from=wheel /wheels /wheels
WORKDIR /src
RUN pip install --no-cache-dir --break-system-packages --constraint constraints.txt virtualenv \
 && virtualenv --no-seed /opt/samserve \
 && pip --python /opt/samserve/bin/python install --no-cache-dir --constraint constraints.txt \
      "$(ls /wheels/*.whl)[gate,openvino,train]" ${TENSORRT_VERSION:+tensorrt-cu13==$TENSORRT_VERSION}

FROM nvcr.io/nvidia/tritonserver:26.06-py3${TRITON_DIGEST}
COPY --from=packages /opt/samserve /opt/samserve
# Triton's Python backend uses the packages of the first python3 on the path.
ENV PATH=/opt/samserve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin samserve \
 && install --directory --owner=10001 --group=10001 /store /scratch
USER 10001:10001
EXPOSE 8000 8001 8002
ENTRYPOINT []
CMD ["tritonserver", "--model-repository=/scratch/repository"]
