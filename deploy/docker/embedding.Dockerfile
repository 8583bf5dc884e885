# The embedding service on Ray Serve: gRPC on 8500, health on 8502, metrics on 9464. From the repository's root:
#   docker build --file deploy/docker/embedding.Dockerfile --tag samserve-embedding:0.3.0 .
# Alone, it runs Ray on its own machine. KubeRay sets another command.

# A digest pins a base image to the bytes that you have tested: @sha256:... of the tag below, from your registry.
ARG PYTHON_DIGEST=

# This stage is the same in all images, so it is built once.
FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST} AS wheel
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY protos protos
COPY services services
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM wheel AS packages
COPY requirements/embedding.txt ./
# First all packages by their hashes, then the wheel, which finds them.
RUN python -m venv --without-pip /opt/samserve \
 && pip --python /opt/samserve/bin/python install --no-cache-dir --require-hashes --no-deps --requirement embedding.txt \
 && pip --python /opt/samserve/bin/python install --no-cache-dir --constraint constraints.txt "$(ls /wheels/*.whl)[embedding,tracing]"

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST}
COPY --from=packages /opt/samserve /opt/samserve
# The root file system may be read-only. All writes go to /tmp and /dev/shm.
ENV PATH=/opt/samserve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# KubeRay starts Ray in a login shell, which resets the path.
RUN echo 'PATH=/opt/samserve/bin:$PATH' > /etc/profile.d/samserve.sh \
 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /bin/bash samserve
USER 10001:10001
EXPOSE 8500 8502 9464
ENTRYPOINT ["python", "-m", "samserve.embedding.main"]
