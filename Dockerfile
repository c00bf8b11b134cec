# The operator's image. vLLM is not in it: the operator runs vLLM's own images.
#
#   docker build -t vllm-operator:0.1.0 .
#   buildah bud --build-arg BASE_IMAGE=<any image with python3 3.11 or later, its venv module and CA certificates> -t vllm-operator:0.1.0 .
#
# BASE_IMAGE may be a digest (name@sha256:...), which makes the build repeatable to the last file of the system.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder

# For builds that reach packages through a mirror. They exist in this stage only, so none of them ends up in the image.
# Instead of these, a pip configuration can be mounted at /etc/pip.conf.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG PIP_NO_INDEX

# Two environments: the first has pip and stays behind, the second is what the image gets.
RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/vllm-operator

WORKDIR /src

# The dependencies first, so that a change of the operator's own code does not install them anew.
COPY requirements.lock ./
RUN /opt/pip/bin/pip --python /opt/vllm-operator install --no-cache-dir --no-compile --no-deps -r requirements.lock

COPY pyproject.toml README.md LICENSE* ./
COPY operator/ operator/
RUN /opt/pip/bin/pip --python /opt/vllm-operator install --no-cache-dir --no-compile --no-deps .

# Nothing was resolved above, so say here, not in the cluster, when the lock misses a package or has one of a wrong version.
RUN /opt/pip/bin/pip --python /opt/vllm-operator check

# Compiled here, because the running container cannot write. Unchecked: copying between stages may change the times of the source
# files, by which Python would otherwise judge the compiled ones outdated.
RUN /opt/vllm-operator/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/vllm-operator/lib


FROM ${BASE_IMAGE}

ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="vllm-operator" \
      org.opencontainers.image.description="Kubernetes operator that serves language models with vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=builder /opt/vllm-operator /opt/vllm-operator

# The container runs with a read-only root and an unnamed user; /tmp, a volume in the cluster, is the one place to write to.
ENV PATH=/opt/vllm-operator/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number, because Kubernetes cannot tell whether a name is root (runAsNonRoot).
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["vllm-operator"]
CMD ["run"]
