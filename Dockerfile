# SPDX-License-Identifier: Apache-2.0
# The product's images. `make images` makes them with a root that it builds itself; with a registry of images at hand:
#
#   python3 -m tools.images --context FOLDER
#   docker build --build-arg BASE=debian:trixie-slim --target agent FOLDER
#
# BASE is a Debian 13: its python3-bpfcc compiles the kernel programs, and belongs to its own Python. FOLDER holds what
# is installed, as wheels: a build asks no package index, and an image knows of none.
ARG BASE=debian:trixie-slim

# --- operator ------------------------------------------------------------------------------------------------------

FROM ${BASE} AS operator-root
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY slim /tmp/slim
RUN /tmp/slim && rm /tmp/slim

FROM operator-root AS operator-packages
COPY operator /tmp/operator
COPY install /tmp/install
RUN /tmp/install /tmp/operator /opt/kernelspan

FROM scratch AS operator
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kernelspan-operator" \
      org.opencontainers.image.description="Turns the TraceProfiles of a cluster into a plan for each node" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# One layer without what was taken out, instead of those that still have it.
# hadolint ignore=DL3067
COPY --from=operator-root / /
COPY --from=operator-packages /opt/kernelspan /opt/kernelspan
ENV PATH=/opt/kernelspan/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    USER=kernelspan
# Or any other: no file of ours is anybody's. kopf asks for a name of whoever runs it, which USER gives.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["/opt/kernelspan/bin/kernelspan-operator"]

# --- agent ---------------------------------------------------------------------------------------------------------

FROM ${BASE} AS agent-root
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-bpfcc linux-libc-dev ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY slim /tmp/slim
RUN /tmp/slim && rm /tmp/slim

FROM agent-root AS agent-packages
COPY agent /tmp/agent
COPY install /tmp/install
RUN /tmp/install /tmp/agent /opt/kernelspan

FROM scratch AS agent
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kernelspan-agent" \
      org.opencontainers.image.description="Traces the unmodified programs of one node from kernel probes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3067
COPY --from=agent-root / /
COPY --from=agent-packages /opt/kernelspan /opt/kernelspan
ENV PATH=/opt/kernelspan/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1
# No USER: what it needs are capabilities, and a capability that is added reaches nobody but root.
WORKDIR /tmp
ENTRYPOINT ["/opt/kernelspan/bin/kernelspan"]
