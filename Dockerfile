# The central office: `docker build -t kiosk-central .` (docker-compose.yml does). Wheels only, each with its hash from
# requirements/central.txt; what runs has no pip, no compiler and no root. tests/deploy/test_dockerfile.py runs the steps
# of the first stage outside of Docker.
#
# Pinned by tag: a digest can be had from a registry only. `docker buildx imagetools inspect IMAGE` prints it, and it may
# stand behind the tag (`…@sha256:…`) where a mirror has to be exact. Same minor version as the tests run with.
ARG PYTHON=python:3.11.15-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/central.txt requirements/dev.txt requirements/
# The build backend stays in a venv of its own; its hashes are those of the development lock.
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' requirements/dev.txt > backend.txt
RUN python -m venv --without-pip /opt/build
RUN python -m pip --python /opt/build/bin/python install --quiet --require-hashes --only-binary :all: -r backend.txt
RUN python -m venv --without-pip /opt/kiosk
RUN python -m pip --python /opt/kiosk/bin/python install --quiet --require-hashes --only-binary :all: -r requirements/central.txt
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY config config
COPY drivers drivers
COPY modules modules
COPY sync sync
RUN python -m pip --python /opt/build/bin/python wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist .
RUN python -m pip --python /opt/kiosk/bin/python install --quiet --no-deps --no-index dist/*.whl

FROM ${PYTHON}
LABEL org.opencontainers.image.title="kiosk central office" org.opencontainers.image.licenses="Apache-2.0"
RUN python -m pip uninstall --quiet --yes --root-user-action ignore setuptools wheel pip \
    && groupadd --gid 10001 kiosk \
    && useradd --uid 10001 --gid kiosk --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin kiosk
COPY --from=build /opt/kiosk /opt/kiosk
COPY config/central.toml /etc/kiosk/central.toml
ENV PATH=/opt/kiosk/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["kiosk", "central"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
