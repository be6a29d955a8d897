# One image for every component: control plane, orchestrator, worker, API server, operator.
# BASE_IMAGE is any Debian-like image with Python 3.11 or newer as `python3`, with venv.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# An environment of its own: Debian's Python refuses packages beside its own (PEP 668).
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils \
 && python3 -m venv /opt/llamadeploy \
 && /opt/llamadeploy/bin/python -m pip uninstall -q -y setuptools \
 && python3 -m venv /opt/build
WORKDIR /src
COPY requirements/image.lock requirements/build.lock requirements/
# The lock before the sources: a change of our code reuses this layer. Debugging symbols are two
# thirds of the compiled modules.
RUN /opt/llamadeploy/bin/python -m pip install --no-compile --require-hashes \
      -r requirements/image.lock \
 && /opt/build/bin/python -m pip install --require-hashes -r requirements/build.lock \
 && find /opt/llamadeploy -name '*.so' -exec strip --strip-debug {} + \
 && find /opt/llamadeploy -depth -type d \( -name tests -o -name test \) \
      -path '*site-packages*' -exec rm -rf {} + \
 && find /opt/llamadeploy -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) \
      -path '*site-packages*' -delete
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
COPY operator operator
# Compiled here, because the root is read-only where it runs. Of the Kubernetes client, 76 MB of
# generated classes, only what the operator imports is: 50 MB less, and all of it still works.
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/dist \
 && /opt/llamadeploy/bin/python -m pip install --no-compile --no-deps /tmp/dist/*.whl \
 && /opt/llamadeploy/bin/python -m compileall -q -j 0 -x /site-packages/kubernetes/ /opt/llamadeploy/lib \
 && /opt/llamadeploy/bin/llamadeploy --version \
 && /opt/llamadeploy/bin/llamadeploy-operator --version

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llamadeploy" \
      org.opencontainers.image.description="LlamaIndex workflows as durable services: runtime, llamactl and the Kubernetes operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# git and ssh fetch sources in `llamadeploy prepare`. The passwd entry: ssh and getpass refuse to
# work for a user id that has no name.
RUN printf 'path-exclude %s\n' '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' \
      > /etc/dpkg/dpkg.cfg.d/llamadeploy \
 && echo 'path-include /usr/share/doc/*/copyright' >> /etc/dpkg/dpkg.cfg.d/llamadeploy \
 && apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git openssh-client \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/apt /var/cache/debconf \
      /var/cache/ldconfig/aux-cache \
 && echo 'llamadeploy:x:65532:' >> /etc/group \
 && echo 'llamadeploy:x:65532:65532:LlamaDeploy:/home/llamadeploy:/usr/sbin/nologin' >> /etc/passwd \
 && install -d -o 65532 -g 65532 /home/llamadeploy
COPY --from=build /opt/llamadeploy /opt/llamadeploy
ENV PATH=/opt/llamadeploy/bin:${PATH} HOME=/home/llamadeploy \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Not the home, over which a pod mounts a volume: images with a service of their own put it here.
WORKDIR /app
USER 65532:65532
EXPOSE 8000 8001 9090 4501
CMD ["llamadeploy", "--help"]
