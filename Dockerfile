# One image for every phema process: the command chooses the service, the argument TORCH chooses the build of torch.
#   docker build -t phema:cpu .
#   docker build -t phema:cuda --build-arg TORCH=cuda .
# Versions and hashes come from requirements.hashes. For a bit-exact base, give PYTHON_IMAGE a digest: python:3.11.14-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/phema
ENV PATH=/opt/phema/bin:${PATH}
WORKDIR /build
COPY requirements.lock requirements.hashes ./
# uv checks the hashes of constraints, which pip cannot. torch and torchvision have none: their builds come from several places.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.hashes > uv.txt && pip install --require-hashes --requirement uv.txt
# Bytecode is compiled here: containers cannot write it later, and compiling torch and Ray takes seconds.
ENV UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_PYTHON=/opt/phema/bin/python UV_CONSTRAINT=requirements.hashes
# phema is the only package that is built from source: its build tool is locked like everything else.
RUN uv pip install "$(grep '^setuptools==' requirements.lock)"
# cpu: torch and torchvision in exactly the locked versions from TORCH_CPU_INDEX, no other package comes from there.
# cuda: PyPI's Linux build of torch, which names the exact versions of its nvidia-* libraries itself.
ARG TORCH=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN case "${TORCH}" in \
        cpu) uv pip install --no-deps --index-url "${TORCH_CPU_INDEX}" $(grep -E '^torch(vision)?==' requirements.lock) ;; \
        cuda) uv pip install $(grep -E '^torch(vision)?==' requirements.lock) ;; \
        *) echo "TORCH is '${TORCH}'; it must be cpu or cuda" >&2; exit 1 ;; \
    esac
# Everything that phema needs, before phema itself: a change of the sources installs no dependency again.
COPY pyproject.toml ./
RUN uv pip install --requirements pyproject.toml --extra server --extra postgres --extra metrics

FROM dependencies AS package
COPY README.md LICENSE ./
COPY shared shared
COPY services services
COPY phema phema
RUN uv pip install --no-deps --no-build-isolation --prefix /opt/package .

FROM ${PYTHON_IMAGE} AS runtime
# A named volume takes the owner of the folder that it is first mounted on: /var/lib/phema/objects is for MinIO.
RUN groupadd --gid 10001 phema \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/phema --create-home --shell /usr/sbin/nologin phema \
    && install -d -o 10001 -g 10001 /var/lib/phema/objects \
    # Debian's login shells, in which some versions of KubeRay start Ray, reset PATH.
    && echo 'PATH=/opt/phema/bin:$PATH' > /etc/profile.d/phema.sh
# With GPUs, the caller chooses the devices; the image chooses the driver's libraries.
ENV PATH=/opt/phema/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PHEMA_STATE_DIR=/var/lib/phema
WORKDIR /var/lib/phema
# The dependencies are a layer of their own: a new version of phema is a small layer above it.
COPY --from=dependencies /opt/phema /opt/phema
COPY --from=package /opt/package /opt/phema
USER 10001:10001
STOPSIGNAL SIGTERM
# A check for every process; compose and Kubernetes replace it with a check of each service.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 CMD ["phema", "doctor", "--only", "database"]
CMD ["phema", "--help"]
