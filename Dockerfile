# nnReg with torch as the package index has it: with CUDA, for processors and GPUs. The CPU build is several GB smaller:
# docker build --build-arg TORCH_INDEX=URL -t nnreg . with the address of CPU wheels from PyTorch's installation page.
FROM python:3.12-slim

ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib

# first what changes rarely: another version of nnReg does not fetch torch anew
COPY requirements/constraints.txt /build/requirements/constraints.txt
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' /build/requirements/constraints.txt)"

COPY setup.py pyproject.toml README.md LICENSE /build/
COPY nnreg /build/nnreg
RUN pip install --constraint /build/requirements/constraints.txt /build && rm -rf /build \
    && useradd --create-home nnreg && mkdir /data && chown nnreg /data

USER nnreg
WORKDIR /data
ENTRYPOINT ["nnreg"]
CMD ["--help"]
