# SPDX-License-Identifier: Apache-2.0
"""By which mechanisms the user's own probes can be attached here: each is attached, and must count what then happens.

None is required: a profile without probes of its own needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kernelspan_agent.errors import MachineError
from kernelspan_agent.guard.checks import Check, State
from kernelspan_agent.probes import proofs, specimen, uprobe, uretprobe
from kernelspan_agent.probes.refusals import refused
from kernelspan_api.userprobes import Mechanism

_KERNEL = (  # what, mechanism, at the return
    ("kprobe", Mechanism.KPROBE, False),
    ("kretprobe", Mechanism.KPROBE, True),
    ("kprobe.multi", Mechanism.KPROBE_MULTI, False),
    ("kretprobe.multi", Mechanism.KPROBE_MULTI, True),
    ("fentry", Mechanism.FENTRY, False),
    ("fexit", Mechanism.FENTRY, True),
)


def checks() -> list[Check]:
    """Every mechanism."""
    return [*_of_kernel(), *_of_user()]


def untried(why: str) -> list[Check]:
    """The same rows, where trying makes no sense."""
    names = [name for name, _, _ in _KERNEL] + list(_USER)
    return [Check(name, State.UNTRIED, why, required=False) for name in names]


def _of_kernel() -> Iterator[Check]:
    for name, mechanism, returns in _KERNEL:
        error = proofs.prove(mechanism, returns=returns).error
        words = f"counted {proofs.CALLS} calls of {proofs.FUNCTION}"
        yield _refusal(name, error) if error else Check(name, State.OK, words, required=False)


def _of_user() -> Iterator[Check]:
    problem = _no_specimen()
    for name, act in _USER.items():
        if problem:
            yield Check(name, State.UNKNOWN, problem, required=False)
            continue
        try:
            yield act(name)
        except MachineError as error:
            yield _refusal(name, error)
        except OSError as error:
            yield _refusal(name, refused(name, error))


def _no_specimen() -> str:
    """Why there is no program to try user probes on; empty where there is one."""
    if not specimen.AVAILABLE:
        return "there is no program to try it on for this architecture"
    try:
        with specimen.file() as file:
            said = specimen.run(file)
    except OSError as error:
        return f"a program of our own cannot be run here: {error.strerror}"
    return f"a program of our own ends with {said}" if said else ""


def _refusal(name: str, error: MachineError) -> Check:
    """The hint only where somebody can do something about it on this kernel."""
    hint = error.hint if error.reason in {"PermissionDenied", "LockdownActive"} else ""
    return Check(name, State.NO, str(error), error.reason, hint, required=False)


def _user(name: str, *, returns: bool = False, semaphore: int = 0) -> Check:
    """What a program of our own shows: its function counted, its semaphore raised while it is probed and only then."""
    target = uprobe.target()
    with proofs.counting() as counter, counter.loaded(uprobe.KIND, target) as program, specimen.file() as file:
        attachment = uprobe.uprobe(file, specimen.FUNCTION, program, returns=returns, semaphore=semaphore)
        try:
            said = specimen.run(file)
        finally:
            attachment.close()
        after = specimen.run(file)
        found = counter.value()
    raised = int(semaphore > 0)
    if (found, said, after) != (specimen.CALLS, raised, 0):
        words = (
            f"counted {found} of {specimen.CALLS} calls; the program ended with {said}, without a probe with {after}"
        )
        return Check(name, State.NO, words, "MechanismUnsupported", required=False)
    told = "raised by the kernel, and lowered" if semaphore else f"counted {found} calls of a program"
    return Check(name, State.OK, told, required=False)


def _uretprobe(name: str) -> Check:
    found = _user(name, returns=True)
    if found.state is not State.OK:
        return found
    survives = uretprobe.survives_seccomp()
    if survives:
        return Check(name, State.OK, f"{found.detail}; one under seccomp lives through it", required=False)
    words = "kills a program under seccomp: refused" if survives is False else f"{found.detail}; seccomp: not known"
    reason = "UretprobeUnsafe" if survives is False else ""
    return Check(name, State.NO if survives is False else State.UNKNOWN, words, reason, required=False)


_USER: dict[str, Callable[[str], Check]] = {
    "uprobe": _user,
    "uretprobe": _uretprobe,
    "usdt-semaphore": lambda name: _user(name, semaphore=specimen.SEMAPHORE),
}
