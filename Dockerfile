FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_PROJECT_ENVIRONMENT=/opt/serin UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --no-install-project
COPY controller controller
COPY testbed testbed
RUN uv sync --locked --no-dev --no-editable

FROM python:3.11-slim
COPY --from=build /opt/serin /opt/serin
# The last two: memory that is free is given back, which Python's own allocator and an arena for each thread keep from
# happening. See docs/reliability.md, "The long run".
ENV PATH=/opt/serin/bin:$PATH PYTHONUNBUFFERED=1 PYTHONMALLOC=malloc MALLOC_ARENA_MAX=1
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["serin", "run"]
