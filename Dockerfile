# tgprep and tgtrain with everything they can use: docker build -t tgprep . (docs/install.md)
FROM python:3.11-slim-bookworm

# For a machine without an NVIDIA GPU: --build-arg PIP_EXTRA_INDEX_URL= the index of torch for CPUs (a fifth of the size)
ARG PIP_EXTRA_INDEX_URL=""

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[all]"

# Any user may run it (docker run --user): what is compiled or drawn at the first start is kept in the container.
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /data
CMD ["tgprep", "doctor"]
