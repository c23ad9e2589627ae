# syntax=docker/dockerfile:1
# docker build --target=cpu|gpu|tpu|beam; docs/vertex.md, docs/beam.md. What may enter is listed in .dockerignore.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base
LABEL org.opencontainers.image.title="unet-trainer" \
      org.opencontainers.image.description="Trains U-Nets with TensorFlow at any scale" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A trial of a search reports in the second folder, which Vertex AI may mount for root alone.
RUN useradd --uid=1000 --create-home trainer && \
    install --directory --owner=trainer /var/hypertune
WORKDIR /home/trainer

# Each target: what the lock says, which changes seldom; then the trainer, which changes often.
FROM base AS cpu-packages
COPY requirements/cpu.txt /requirements/
RUN pip install --require-hashes --no-deps --requirement=/requirements/cpu.txt

FROM cpu-packages AS wheel
COPY . /source
RUN pip wheel --no-deps --no-build-isolation --wheel-dir=/wheels /source

FROM cpu-packages AS cpu
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
ARG RUN_AS=1000
USER ${RUN_AS}
ENTRYPOINT ["python", "-m", "trainer.task"]

FROM base AS gpu
# NVIDIA's driver is mounted here on Vertex AI and GKE, where a plain image's loader does not look;
# the other two ask docker's own runtime for it.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PATH=/usr/local/nvidia/bin:$PATH
COPY requirements/gpu.txt /requirements/
RUN pip install --require-hashes --no-deps --requirement=/requirements/gpu.txt
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
ARG RUN_AS=1000
USER ${RUN_AS}
ENTRYPOINT ["python", "-m", "trainer.task"]

FROM base AS tpu
COPY requirements/tpu.txt /requirements/
# Vertex AI's guide to TPU v5e wants the library there, and these variables.
RUN pip install --require-hashes --no-deps --requirement=/requirements/tpu.txt && \
    ln -s /usr/local/lib/python3.11/site-packages/libtpu/libtpu.so /lib/libtpu.so
ENV NEXT_PLUGGABLE_DEVICE_USE_C_API=true \
    TF_PLUGGABLE_DEVICE_LIBRARY_PATH=/lib/libtpu.so
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
# The chips' files in /dev/vfio may be root's alone. That guide wants a CMD, too.
ARG RUN_AS=0
USER ${RUN_AS}
CMD ["python", "-m", "trainer.task"]

FROM apache/beam_python3.11_sdk:2.77.0 AS beam-boot

FROM base AS beam
# The machines of Dataflow, Flink and Spark; of Beam's own image only what starts Python there.
COPY requirements/beam.txt /requirements/
RUN pip install --require-hashes --no-deps --requirement=/requirements/beam.txt
COPY --from=beam-boot /opt/apache/beam /opt/apache/beam
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
ARG RUN_AS=1000
USER ${RUN_AS}
ENTRYPOINT ["/opt/apache/beam/boot"]
