# The HTTP gateway: HTTP on 8503, metrics on 9464. From the repository's root:
#   docker build --file deploy/docker/gateway.Dockerfile --tag samserve-gateway:0.3.0 .

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
COPY requirements/gateway.txt ./
# First all packages by their hashes, then the wheel, which finds them.
RUN python -m venv --without-pip /opt/samserve \
 && pip --python /opt/samserve/bin/python install --no-cache-dir --require-hashes --no-deps --requirement gateway.txt \
 && pip --python /opt/samserve/bin/python install --no-cache-dir --constraint constraints.txt "$(ls /wheels/*.whl)[gateway,tracing]" \
 && cd /opt/samserve/lib/python3.11/site-packages \
 && find . -depth -type d \( -name tests -o -name test \) -exec rm -r {} +

# The page; Node and zig come from PyPI. An image that is built without npm's registry has none, and `/` says so.
FROM wheel AS page
RUN python services/web/build.py --optional && mkdir -p services/samserve/web

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST}
COPY --from=packages /opt/samserve /opt/samserve
COPY --from=page /src/services/samserve/web /opt/samserve/lib/python3.11/site-packages/samserve/web
# The root file system may be read-only. All writes go to /tmp.
ENV PATH=/opt/samserve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin samserve
USER 10001:10001
EXPOSE 8503 9464
ENTRYPOINT ["python", "-m", "samserve.gateway.main"]
