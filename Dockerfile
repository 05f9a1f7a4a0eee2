# Targets: ignite (the default: API, CPU worker) and worker-gpu (the same, inside vLLM's own image).
ARG VLLM_VERSION=v0.24.0

FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv
ENV UV_PROJECT_ENVIRONMENT=/opt/ignite UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
# What is locked changes more seldom than the code, so it has a layer of its own.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY . .
RUN uv sync --frozen --no-dev --no-editable

# Ignite has an environment of its own: its packages and vLLM's do not have to agree.
FROM vllm/vllm-openai:${VLLM_VERSION} AS worker-gpu
RUN python3 -m pip install --no-cache-dir uv
ENV UV_PROJECT_ENVIRONMENT=/opt/ignite UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
COPY . /src
RUN cd /src && python3 -m uv sync --frozen --no-dev --no-editable && ln -s /opt/ignite/bin/ignite /usr/local/bin/ignite
ENTRYPOINT ["ignite"]

FROM python:3.11-slim AS ignite
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 ignite
COPY --from=build /opt/ignite /opt/ignite
ENV PATH=/opt/ignite/bin:$PATH PYTHONUNBUFFERED=1
USER ignite
WORKDIR /home/ignite
EXPOSE 8000 50051
ENTRYPOINT ["ignite"]
