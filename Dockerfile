# Targets: ignite (the default: API and CPU worker) and worker-gpu (the same inside vLLM's image).
ARG VLLM_VERSION=v0.24.0
ARG PYTHON_VERSION=3.11.14-slim-bookworm
ARG UV_VERSION=0.13.9

FROM python:${PYTHON_VERSION} AS build
ARG UV_VERSION
RUN pip install --no-cache-dir uv==${UV_VERSION}
ENV UV_PROJECT_ENVIRONMENT=/opt/ignite UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
# Dependencies change less often than the code, so they have a layer of their own.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --extra s3 --no-install-project
COPY . .
RUN uv sync --frozen --no-dev --extra s3 --no-editable

# Ignite has an environment of its own, so that its packages do not conflict with vLLM's.
FROM vllm/vllm-openai:${VLLM_VERSION} AS worker-gpu
ARG UV_VERSION
RUN python3 -m pip install --no-cache-dir uv==${UV_VERSION}
ENV UV_PROJECT_ENVIRONMENT=/opt/ignite UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
COPY . /src
RUN cd /src && python3 -m uv sync --frozen --no-dev --no-editable && ln -s /opt/ignite/bin/ignite /usr/local/bin/ignite
RUN groupadd --gid 10001 ignite && useradd --create-home --uid 10001 --gid 10001 ignite
# A volume that is mounted here gets this directory's owner.
RUN install -d -o ignite -g ignite /home/ignite/.cache /home/ignite/.cache/huggingface
USER 10001:10001
WORKDIR /home/ignite
ENTRYPOINT ["ignite"]

FROM python:${PYTHON_VERSION} AS ignite
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 ignite && useradd --create-home --uid 10001 --gid 10001 ignite
COPY --from=build /opt/ignite /opt/ignite
ENV PATH=/opt/ignite/bin:$PATH PYTHONUNBUFFERED=1
# A number: Kubernetes cannot verify that a user name is not root.
USER 10001:10001
WORKDIR /home/ignite
EXPOSE 8000 50051
ENTRYPOINT ["ignite"]
