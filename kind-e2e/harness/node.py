# SPDX-License-Identifier: Apache-2.0
"""The image of a kind node, from Debian's packages and our own build of Kubernetes: no registry of images is asked.

A node is Debian with systemd and containerd, kind's own files for it (from its Go module), kubelet and kubeadm, and in
containerd's store the images that kubeadm will ask for, each made of one program. Their names are kubeadm's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.build import build, cache_folder
from tools.errors import ToolError
from tools.families import TOOLS_FOLDER
from tools.gotool import Say, find_go
from tools.images.docker import Docker
from tools.images.roots import root

REPOSITORY = "kernelspan-e2e/node"
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns")
PROGRAMS = ("kubeadm", "kubelet", "kubectl", "kind")
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "containerd", "runc", "containernetworking-plugins",
    "conntrack", "iptables", "nftables", "iproute2", "ethtool", "kmod", "mount", "util-linux", "procps",
    "ca-certificates", "jq", "gettext-base",
)  # fmt: skip
_PLUGINS = ("host-local", "loopback", "ptp", "portmap")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_PATH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Units that a container has no use for, and links that start them; kind's own image does the same.
_UNWANTED = """
find /lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete
rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* \
  /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/sockets.target.wants/*udev* \
  /lib/systemd/system/sockets.target.wants/*initctl* /lib/systemd/system/basic.target.wants/*
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\\nReadKMsg=no\\n' > /etc/systemd/journald.conf.d/kind.conf
systemctl -q enable kubelet.service containerd.service undo-mount-hacks.service
systemctl -q mask systemd-binfmt.service systemd-modules-load.service
"""
_START_CONTAINERD = """
nohup containerd > /dev/null 2>&1 &
for attempt in $(seq 100); do ctr version > /dev/null 2>&1 && exit 0; sleep 0.2; done
exit 1
"""
_STOP_CONTAINERD = """
kill $(pidof containerd)
while pidof containerd > /dev/null; do sleep 0.1; done
rm -rf /run/containerd
"""
# kind applies this file to a new cluster. No test here asks for a volume, so nothing provides any.
_STORAGE_CLASS = """\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
"""


def node_image(docker: Docker, say: Say) -> str:
    """The name of the node image, made in this docker if it is not there; earlier ones of ours are removed.

    Raises ToolError where something that it is made of cannot be had.
    """
    programs = build(("kubernetes", "etcd", "coredns", "kind"), say)
    base = root(PACKAGES, say)
    name = f"{REPOSITORY}:{_key(base, programs)}"
    if docker.image_id(name):
        return name
    started = time.monotonic()
    for old in docker.run("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).split():
        docker.run("image", "rm", old)
    with tempfile.TemporaryDirectory(dir=cache_folder(os.environ).parent, prefix=".node-") as scratch:
        folder = Path(scratch) / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(folder)], check=True)
        images = _components(docker, programs, base, Path(scratch))
        _furnish(folder, programs, next(image for image in images if "/pause:" in image))
        docker.import_root(folder, f"{REPOSITORY}-base", ["ENV container=docker"])
        say(f"node image: its root and {len(images)} images, {time.monotonic() - started:.0f} s")
        _assemble(docker, images, name)
    docker.run("image", "rm", f"{REPOSITORY}-base", *images)
    say(f"node image: {name}, {time.monotonic() - started:.0f} s")
    return name


def _key(base: Path, programs: Mapping[str, Path]) -> str:
    """Changes with everything that the image is made of; a program's path has a key of its own in it."""
    sources = [path.read_text("utf-8") for path in (Path(__file__), *_pause_sources())]
    facts = [
        base.name,
        *(str(programs[name].relative_to(cache_folder(os.environ))) for name in sorted(programs)),
        *sources,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _pause_sources() -> list[Path]:
    return sorted((Path(__file__).parents[1] / "pause").iterdir())


def _furnish(folder: Path, programs: Mapping[str, Path], pause: str) -> None:
    """Makes a node of a root: kind's files, the programs, containerd's configuration."""
    files = _kind_files()
    shutil.copytree(files / "etc", folder / "etc", dirs_exist_ok=True, copy_function=_copy_writable)
    for source, target in ((files / "kind/bin", "kind/bin"), (files / "usr/local/bin", "usr/local/bin")):
        shutil.copytree(source, folder / target, dirs_exist_ok=True, copy_function=_copy_program)
    (folder / "etc/systemd/system/containerd-fuse-overlayfs.service").unlink()
    for name in ("kubeadm", "kubelet", "kubectl"):
        _copy_program(programs[name], folder / "usr/bin" / name)
    (folder / "usr/local/bin/containerd").symlink_to("/usr/bin/containerd")  # where kind's unit looks for it
    (folder / "usr/local/sbin/runc").symlink_to("/usr/sbin/runc")
    for name in ("opt/cni/bin", "etc/cni/net.d", "etc/kubernetes/manifests", "kind/manifests"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in _PLUGINS:
        _copy_program(folder / "usr/lib/cni" / name, folder / "opt/cni/bin" / name)
    (folder / "kind/version").write_text(f"{_version(programs)}\n")
    (folder / "kind/manifests/default-storage.yaml").write_text(_STORAGE_CLASS)
    configuration = folder / "etc/containerd/config.toml"
    lines = (
        configuration.read_text()
        .replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
        .splitlines()
    )
    lines = [f'  sandbox_image = "{pause}"' if "sandbox_image" in line else line for line in lines]
    configuration.write_text("\n".join(lines) + "\n")
    # Neither can be had where the machine is bounded from CAP_SYS_RESOURCE; elsewhere nobody misses them.
    unit = folder / "etc/systemd/system/containerd.service"
    kept = [line for line in unit.read_text().splitlines() if not line.startswith(("OOMScoreAdjust=", "LimitNOFILE="))]
    unit.write_text("\n".join(kept) + "\n")
    subprocess.run(["chroot", str(folder), "bash", "-euc", _UNWANTED], check=True, capture_output=True)
    (folder / "etc/containerd/cri-base.json").write_text(json.dumps(_container_defaults(folder)))


def _container_defaults(folder: Path) -> object:
    """containerd's own description of a container, with kind's hook, without limits that not every machine may set."""
    said = subprocess.run(["chroot", str(folder), "ctr", "oci", "spec"], check=True, capture_output=True).stdout
    described = json.loads(said)
    described.setdefault("hooks", {}).setdefault("createContainer", []).append(
        {"path": "/kind/bin/mount-product-files.sh"}
    )
    described["process"].pop("rlimits", None)
    return described


def _components(docker: Docker, programs: Mapping[str, Path], base: Path, scratch: Path) -> list[str]:
    """Makes the images that kubeadm asks for; their names."""
    said = subprocess.run(
        [programs["kubeadm"], "config", "images", "list", "--kubernetes-version", _version(programs)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = said.split()
    for name in names:
        program = name.rpartition("/")[2].partition(":")[0]
        with tempfile.TemporaryDirectory(dir=scratch) as made:
            folder = Path(made)
            (folder / "etc").mkdir()
            (folder / "tmp").mkdir(mode=0o1777)
            (folder / "etc/passwd").write_text("root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
            if program == "pause":
                _build_pause(folder / "usr/local/bin/pause")
            else:
                _copy_program(programs[program], folder / "usr/local/bin" / program)
            if program == "kube-proxy":
                _add_iptables(base, folder)
            entry = [f"/usr/local/bin/{program}"] if program in {"pause", "coredns"} else []
            docker.import_root(folder, name, [f"ENTRYPOINT {json.dumps(entry)}", f"ENV {_PATH}"])
    return names


def _add_iptables(base: Path, folder: Path) -> None:
    """Copies iptables and nft out of a root, with the libraries that they need."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(f"usr/{name}")
    programs = ["usr/sbin/xtables-nft-multi", "usr/sbin/xtables-legacy-multi", "usr/sbin/nft"]
    for name in programs:
        _copy_program(base / name, folder / name)
    shutil.copytree(base / _LIBRARIES / "xtables", folder / _LIBRARIES / "xtables")
    for family in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            (folder / "usr/sbin" / f"{family}{suffix}").symlink_to("xtables-nft-multi")
    plugins = [str(path.relative_to(base)) for path in (base / _LIBRARIES / "xtables").glob("*.so")]
    said = subprocess.run(
        ["chroot", str(base), "ldd", *(f"/{name}" for name in programs + plugins)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for word in {word for word in said.split() if word.startswith(("/lib", "/usr/lib")) and not word.endswith(":")}:
        target = folder / word.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2((base / word.lstrip("/")).resolve(), target)


def _build_pause(target: Path) -> None:
    target.parent.mkdir(parents=True)
    source = Path(__file__).parents[1] / "pause"
    go = find_go(os.environ, source)
    command = [str(go.command), "build", "-trimpath", "-ldflags=-s -w", "-o", str(target), "."]
    subprocess.run(command, check=True, cwd=source, env=dict(go.environment), capture_output=True)


def _assemble(docker: Docker, images: Sequence[str], name: str) -> None:
    """Starts the root, gives its containerd the images, and keeps the result."""
    with _container(docker, f"{REPOSITORY}-base") as made:
        docker.run("exec", made, "bash", "-c", _START_CONTAINERD)
        save = [docker.command, "save", *images]
        load = ["ctr", "--namespace=k8s.io", "images", "import", "--label=io.cri-containerd.pinned=pinned"]
        docker.pipe(save, ["exec", "--interactive", made, *load, "--all-platforms", "--no-unpack", "-"])
        docker.run("exec", made, "bash", "-c", _STOP_CONTAINERD)
        entry = json.dumps(["/usr/local/bin/entrypoint", "/sbin/init"])
        docker.run("commit", "--change", f"ENTRYPOINT {entry}", "--change", "CMD []", made, name)


@contextlib.contextmanager
def _container(docker: Docker, image: str) -> Iterator[str]:
    """A container that sleeps as long as the block lasts; its stop signal, kept by a commit, is systemd's."""
    options = ["--detach", "--stop-signal=SIGRTMIN+3", "--privileged", "--security-opt=seccomp=unconfined"]
    made = docker.run("run", *options, "--entrypoint=sleep", image, "infinity")
    try:
        yield made
    finally:
        docker.run("rm", "--force", "--volumes", made, check=False)


def _kind_files() -> Path:
    """kind's own files for a node, in the module that its program is built from."""
    family = TOOLS_FOLDER / "kind"
    go = find_go(os.environ, family)
    command = [str(go.command), "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kind"]
    said = subprocess.run(command, cwd=family, env=dict(go.environment), capture_output=True, text=True, check=False)
    files = Path(said.stdout.strip()) / "images/base/files"
    if not said.stdout.strip() or not files.is_dir():
        command = [str(go.command), "mod", "download", "sigs.k8s.io/kind"]
        raise ToolError(
            f"kind's module is not there: {said.stderr.strip()}", hint=f"in tools/kind: {' '.join(command)}"
        )
    return files


def _version(programs: Mapping[str, Path]) -> str:
    said = subprocess.run([programs["kubeadm"], "version", "-o", "short"], check=True, capture_output=True, text=True)
    return said.stdout.strip()


def _copy_program(source: Path | str, target: Path | str) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    Path(target).chmod(0o755)


def _copy_writable(source: str, target: str) -> None:
    shutil.copyfile(source, target)  # Go's module cache is read-only, a node's files are not
    Path(target).chmod(0o644)
