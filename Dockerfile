# The server as an image, for the CPU (target "cpu", the default) or for NVIDIA GPUs (target "cuda"):
#
#   docker build -t voxlive .
#   docker build -t voxlive:cuda --target cuda .
#   docker run --read-only --tmpfs /tmp -v voxlive-models:/models -v voxlive-data:/data \
#     -e VOXLIVE_API_KEY=CHOOSE-A-LONG-SECRET -p 8000:8000 voxlive
#
# docs/deploy.md has the rest. deploy/try_image.py runs these steps in a minimal root, without a
# container runtime, and looks at what came out.

FROM debian:trixie-slim AS python
ENV LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# uv installs: it knows which declared packages are of no use here (pyproject.toml, tool.uv).
FROM python AS build
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.8
RUN python3 -m venv /opt/voxlive
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY voxlive ./voxlive/

FROM build AS build-cpu
RUN /opt/uv/bin/uv pip install --python /opt/voxlive/bin/python --no-cache --compile-bytecode \
  -c constraints.txt ".[postgres,redis,trace]"

FROM build AS build-cuda
RUN /opt/uv/bin/uv pip install --python /opt/voxlive/bin/python --no-cache --compile-bytecode \
  -c constraints.txt ".[postgres,redis,trace,cuda13,cuda12]"

# /models: what is downloaded or compiled once; /data: transcripts, with --store /data. All else may
# be read-only, but for /tmp.
FROM python AS server
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data voxlive \
  && install -d -o voxlive -g voxlive /models /data
ENV PATH=/opt/voxlive/bin:/usr/local/bin:/usr/bin:/bin HOME=/data HF_HOME=/models/hub \
  XDG_CACHE_HOME=/models XDG_DATA_HOME=/data VOXLIVE_HOST=0.0.0.0 VOXLIVE_PORT=8000
VOLUME ["/models", "/data"]
WORKDIR /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=15s --start-period=5m CMD ["python3", "-c", "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"VOXLIVE_PORT\"]}/health/ready', timeout=14)"]
ENTRYPOINT ["voxlive"]
CMD ["serve"]

# What the driver of the host gives to containers: computing, and nvidia-smi.
FROM server AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/voxlive /opt/voxlive

FROM server AS cpu
COPY --from=build-cpu /opt/voxlive /opt/voxlive
