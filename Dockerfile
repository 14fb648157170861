# One image for every phema process: the command chooses the service, the target chooses the torch build.
#   docker build --target cpu  -t phema:cpu  .
#   docker build --target cuda -t phema:cuda .
# Versions come from requirements.lock. For a bit-exact base, give PYTHON_IMAGE a digest: python:3.11.14-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Keep the bytecode that pip compiles: containers cannot write it later, and compiling torch and Ray takes seconds.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/phema
ENV PATH=/opt/phema/bin:${PATH}
WORKDIR /build
COPY requirements.lock ./
# phema is the only package that is built from source: its build tool is locked like everything else.
RUN pip install "$(grep '^setuptools==' requirements.lock)"

FROM build AS build-cpu
# From this index only, in exactly the locked version. No other package comes from this index.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps --index-url "${TORCH_CPU_INDEX}" "$(grep '^torch==' requirements.lock)"
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY services services
COPY phema phema
RUN pip install --constraint requirements.lock --no-build-isolation ".[server,postgres]"

FROM build AS build-cuda
# PyPI's Linux build of torch is the CUDA one; it names the exact versions of its nvidia-* libraries itself.
RUN pip install "$(grep '^torch==' requirements.lock)" --constraint requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY services services
COPY phema phema
RUN pip install --constraint requirements.lock --no-build-isolation ".[server,postgres]"

FROM ${PYTHON_IMAGE} AS runtime
# A named volume takes the owner of the folder that it is first mounted on: /var/lib/phema/objects is for MinIO.
RUN groupadd --gid 10001 phema \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/phema --create-home --shell /usr/sbin/nologin phema \
    && install -d -o 10001 -g 10001 /var/lib/phema/objects \
    # Debian's login shells, in which some versions of KubeRay start Ray, reset PATH.
    && echo 'PATH=/opt/phema/bin:$PATH' > /etc/profile.d/phema.sh
ENV PATH=/opt/phema/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    PHEMA_STATE_DIR=/var/lib/phema
WORKDIR /var/lib/phema
USER 10001:10001
STOPSIGNAL SIGTERM
# A check for every process; compose and Kubernetes replace it with a check of each service.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 CMD ["phema", "doctor", "--only", "database"]
CMD ["phema", "--help"]

FROM runtime AS cuda
# The caller chooses the GPUs; the image chooses the driver's libraries.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/phema /opt/phema

# The last target is what a build without --target makes.
FROM runtime AS cpu
COPY --from=build-cpu /opt/phema /opt/phema
