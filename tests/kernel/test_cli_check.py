# SPDX-License-Identifier: Apache-2.0
"""`kernelspan check` on this machine, whole and with parts of it taken away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.probes.mechanisms import MECHANISMS, has_call
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.probes.source import syscalls
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_api.operations import Group

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("0*.yaml"))
_COMMAND = [sys.executable, "-c", "from kernelspan_agent.cli import main; main()", "check"]
_WITHOUT_MODULES = {"init_module", "finit_module", "delete_module"}  # a kernel without CONFIG_MODULES


def check(*arguments: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`check`, below another command."""
    return subprocess.run([*under, *_COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False)


def checked(*arguments: str, under: tuple[str, ...] = (), status: int = 0) -> dict[str, Any]:
    run = check("--json", *arguments, under=under)
    assert run.returncode == status, run.stdout + run.stderr
    assert run.stderr == ""
    found: dict[str, Any] = json.loads(run.stdout)
    assert set(found) == {"ok", "kernel", "checks", "programs", "notVisible", "profile"}
    assert found["ok"] == (status != 3)
    return found


def state_of(found: dict[str, Any], name: str) -> str:
    return next(str(each["state"]) for each in found["checks"] if each["name"] == name)


def test_this_machine() -> None:
    """Every try succeeds, every module is loaded by every mechanism."""
    found = checked()
    for name in ("bpf-map", "bpf-program", "kernel-reads", "ring-buffer", "raw-tracepoint", "btf", "bcc", "programs"):
        assert state_of(found, name) == "ok"
    seen = {(each["module"], each["mechanism"]) for each in found["programs"] if each["state"] == "ok"}
    assert seen == {(module.name, mechanism.name) for module in modules_of(EVERYTHING) for mechanism in MECHANISMS}
    assert all(each["programs"] for each in found["programs"])
    assert {each["what"] for each in found["notVisible"]} >= {"memory-mapped files", "native frames"}
    assert found["profile"] is None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_would_attach(path: Path) -> None:
    """Its groups with their calls, and only those modules; exit 0."""
    found = checked("-f", str(path))
    plan = found["profile"]["plan"]
    groups = {each["group"] for each in plan["groups"]}
    assert groups == {group.value for group in Group if f"\n  {group.value}:" in path.read_text(encoding="utf-8")}
    modules = {each["module"] for each in found["programs"]}
    has_stacks = "stacks: None" not in path.read_text(encoding="utf-8")
    assert modules >= groups | ({"core", "python"} if has_stacks else {"core"})
    assert has_stacks or "python" not in modules
    assert modules & {group.value for group in Group} == groups
    assert {each["mechanism"] for each in found["programs"]} == {plan["mechanism"]}
    assert all(each["operations"] for each in plan["groups"])
    assert found["profile"]["problems"] == []
    assert found["profile"]["ignored"] == ["spec.podSelector"]


def test_every_call_of_the_tables_has_its_tracepoint() -> None:
    """By the name that the kernel gives it, which is not always the call's; else it would be left out unseen."""
    tracefs = Tracefs.find()
    missing = {call.name for group in Group for call in syscalls(group) if not has_call(tracefs, call.name)}
    assert missing <= _WITHOUT_MODULES


def test_how_own_probes_can_be_attached() -> None:
    """Each mechanism with what came of it. Uprobes are there on every kernel we run on; what is not there says so and why."""
    found = {each["name"]: each for each in checked()["checks"]}
    assert {found[name]["state"] for name in ("uprobe", "uretprobe", "usdt-semaphore")} == {"ok"}
    for name in ("kprobe", "kretprobe", "kprobe.multi", "kretprobe.multi", "fentry", "fexit"):
        assert found[name]["required"] is False
        assert found[name]["state"] == "ok" or found[name]["reason"] == "MechanismUnsupported"
        assert found[name]["detail"]


def test_own_probes_where_nothing_may_be_run_from_memory() -> None:
    """vm.memfd_noexec=2, in a PID namespace of its own: what cannot be tried is not known, which is no refusal."""
    script = 'echo 2 >/proc/sys/vm/memfd_noexec && exec "$@"'
    found = checked(under=("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"))
    assert {state_of(found, name) for name in ("uprobe", "uretprobe", "usdt-semaphore")} == {"unknown"}


def test_a_profile_for_a_later_version_is_2() -> None:
    """What is not available is named; the machine is still looked at."""
    found = checked("-f", str(ROOT / "examples/later/24-inside-tls.yaml"), status=2)
    assert "not available in this version" in found["profile"]["problems"][0]["message"]
    assert found["profile"]["plan"] is None
    assert found["programs"]


def test_a_profile_that_is_none_is_2(tmp_path: Path) -> None:
    """Every problem with its place."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: x}\nspec: {files: {nosuch: 1}}\n"
    )
    found = checked("-f", str(path), status=2)
    assert [each["path"] for each in found["profile"]["problems"]] == ["spec.files.nosuch"]
    assert check("-f", "/no/such/file").returncode == 2


@pytest.mark.parametrize(
    ("dropped", "fails"),
    [
        (("bpf", "sys_admin"), {"CAP_BPF", "bpf-map"}),
        (("perfmon", "sys_admin"), {"CAP_PERFMON", "bpf-program"}),
        (("sys_ptrace",), {"CAP_SYS_PTRACE"}),
        (("dac_read_search", "dac_override"), {"CAP_DAC_READ_SEARCH"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_without_a_capability(dropped: tuple[str, ...], fails: set[str]) -> None:
    """It is named, what it makes impossible fails by itself, and how to grant it stands beside it."""
    flags = ",".join(f"-{name}" for name in dropped)
    found = checked(under=("setpriv", "--inh-caps", flags, "--bounding-set", flags), status=3)
    failing = {each["name"]: each for each in found["checks"] if each["required"] and each["state"] == "no"}
    assert fails <= set(failing)
    assert {name for name in failing if name.startswith("CAP_")} == {name for name in fails if name.startswith("CAP_")}
    assert all("setpriv" in failing[name]["hint"] for name in failing if name.startswith("CAP_"))
    if "bpf-map" in fails:
        assert {each["state"] for each in found["programs"]} == {"untried"}


def test_another_user_with_just_what_is_needed() -> None:
    """Four capabilities and no root: everything works that works for root."""
    caps = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"
    under = (
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "--bounding-set",
        caps,
        "--inh-caps",
        caps,
        "--ambient-caps",
        caps,
    )
    found = checked(under=under)
    as_root = {each["name"]: each["state"] for each in checked()["checks"]}
    assert {each["name"]: each["state"] for each in found["checks"]} == as_root
    assert [each["name"] for each in found["checks"] if each["state"] == "no" and each["required"]] == []


def test_a_user_namespace_of_its_own() -> None:
    """All capabilities there, none that counts: said instead of a bare EPERM."""
    found = checked(under=("unshare", "-Ur"), status=3)
    assert state_of(found, "CAP_BPF") == "ok"
    assert state_of(found, "user-namespace") == "no"
    assert state_of(found, "bpf-map") == "no"


def test_without_tracefs() -> None:
    """`run` works all the same, by raw tracepoints; a plan of few calls as well."""
    script = 'umount -l /sys/kernel/tracing 2>/dev/null; umount -l /sys/kernel/debug 2>/dev/null; exec "$@"'
    under = ("unshare", "-m", "sh", "-c", script, "sh")
    found = checked("-f", str(ROOT / "examples/04-waits.yaml"), under=under)
    assert state_of(found, "tracefs") == "no"
    assert state_of(found, "tracepoint") == "no"
    assert found["profile"]["plan"]["mechanism"] == "RawTracepoint"
    assert found["profile"]["plan"]["absentSystemCalls"] is None
    assert state_of(found, "programs") == "ok"


def test_without_btf() -> None:
    """A machine whose kernel publishes none: one reason, nothing tried in vain."""
    script = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    found = checked(under=("unshare", "-m", "sh", "-c", script, "sh"), status=3)
    assert state_of(found, "btf") == "no"
    assert {each["state"] for each in found["programs"]} == {"untried"}


def test_without_bcc() -> None:
    """The package to install."""
    script = 'mount -t tmpfs none /usr/lib/python3/dist-packages && exec "$@"'
    run = check(under=("unshare", "-m", "sh", "-c", script, "sh"))
    assert run.returncode == 3
    assert "No module named 'bcc'" in run.stdout
    assert "python3-bpfcc" in run.stdout


def test_the_page() -> None:
    """For people: a line a check, no colours in a pipe, the verdict last."""
    run = check("-f", str(EXAMPLES[0]))
    assert run.returncode == 0
    lines = run.stdout.splitlines()
    assert lines[-1] == "kernelspan run can work here"
    assert any(line.split()[:2] == ["ok", "bpf-map"] for line in lines)
    assert "system calls: open openat" in run.stdout
    assert "\x1b" not in run.stdout
