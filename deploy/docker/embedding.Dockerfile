# The embedding service on Ray Serve: gRPC on 8500, health on 8502, metrics on 9464. From the repository's root:
#   docker build --file deploy/docker/embedding.Dockerfile --tag samserve-embedding:0.3.0 .
# By itself it runs Ray on its own machine; KubeRay gives it another command.

# Digests pin a base to the very bytes that you have tried: @sha256:... of the tag below, as your registry tells it.
ARG PYTHON_DIGEST=

# The same in all our images, so it is built once.
FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST} AS wheel
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY protos protos
COPY services services
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM wheel AS packages
RUN python -m venv --without-pip /opt/samserve \
 && pip --python /opt/samserve/bin/python install --no-cache-dir --constraint constraints.txt "$(ls /wheels/*.whl)[embedding,tracing]"

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST}
COPY --from=packages /opt/samserve /opt/samserve
# The root file system may be read-only: what is written at all goes to /tmp, and to /dev/shm.
ENV PATH=/opt/samserve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# KubeRay starts Ray in a login shell, which sets the path anew.
RUN echo 'PATH=/opt/samserve/bin:$PATH' > /etc/profile.d/samserve.sh \
 && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /bin/bash samserve
USER 10001:10001
EXPOSE 8500 8502 9464
ENTRYPOINT ["python", "-m", "samserve.embedding.main"]
