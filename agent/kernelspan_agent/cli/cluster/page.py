# SPDX-License-Identifier: Apache-2.0
"""A pod's verdict for people, made from what --json shows. Others have written much of it: terminals must not obey it."""

from __future__ import annotations

from typing import Any

from kernelspan_agent.cli.terminal import Painter
from kernelspan_agent.process.procfs import printable

_KEY_WIDTH, _PART_WIDTH = 11, 18
_ANSWERS = {True: "traced", False: "not traced", None: "not known"}


def page(shown: dict[str, Any], paint: Painter) -> list[str]:
    """Its lines."""
    shown = _printable(shown)
    pod = shown["pod"]
    state = pod["phase"] or "Unknown"
    if pod["deleting"]:
        state += ", being deleted: it is traced to its end"
    lines = [
        _line("pod", f"{pod['namespace']}/{pod['name']} ({state})"),
        _line("node", pod["node"] or "none yet"),
    ]
    if workload := pod["workload"]:
        lines.append(_line("workload", f"{workload['kind']} {workload['name']}"))
    lines.append(_line("verdict", _verdict(shown, paint)))
    lines += [_line("container", _container(one)) for one in shown["containers"]]
    lines += [_line("not read", f"{one['what']}: {paint.bad(one['why'])}") for one in shown["notRead"]]
    for one in shown["profiles"]:
        lines += ["", *_profile(one, paint)]
    if shown["advice"]:
        lines += ["", *shown["advice"]]
    return lines


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _line(key: str, text: str) -> str:
    return f"{key:<{_KEY_WIDTH}} {text}"


def _part(key: str, text: str) -> str:
    return f"  {key:<{_PART_WIDTH}} {text}"


def _answer(traced: bool | None, paint: Painter) -> str:
    text = _ANSWERS[traced]
    return text if traced is None else paint.good(text) if traced else paint.bad(text)


def _verdict(shown: dict[str, Any], paint: Painter) -> str:
    answer, profiles = _answer(shown["traced"], paint), shown["profiles"]
    if shown["traced"]:
        count = sum(bool(one["traced"]) for one in profiles)
        return f"{answer}, by {count} profile{'s' if count > 1 else ''}"
    selecting = [one for one in profiles if one["selected"]]
    if shown["traced"] is None:
        return f"{answer} whether it is traced: see below"
    if shown["pod"]["ended"]:
        return f"{answer}: the pod has ended"
    if not profiles:
        return f"{answer}: there is no profile"
    if not selecting:
        return f"{answer}: none of {len(profiles)} profile{'s' if len(profiles) > 1 else ''} selects it"
    return f"{answer}, though {len(selecting)} profile{'s' if len(selecting) > 1 else ''} selects it: see below"


def _container(one: dict[str, Any]) -> str:
    waiting = "" if one["started"] else " (not started yet)"
    return f"{one['name']}{waiting}: {', '.join(one['profiles']) or 'no profile'}"


def _profile(one: dict[str, Any], paint: Painter) -> list[str]:
    whole = f"{one['namespace']}/{one['name']}" if one["namespace"] else one["name"]
    if one["selected"] is False:
        lines = [f"{one['kind']} {whole}: {paint.bad('does not select the pod')}"]
    elif one["selected"] is None:
        lines = [f"{one['kind']} {whole}: not known whether it selects the pod"]
    else:
        lines = [f"{one['kind']} {whole}: selects the pod, {_answer(one['traced'], paint)}"]
    lines += [_part(each["part"], each["message"]) for each in one["objections"]]
    if not one["selected"]:
        return lines
    if one["message"]:
        lines.append(_part("why", one["message"]))
    lines += _node(one["node"], paint)
    if one["processSelector"]:
        chosen = "; ".join(f"{key}: {', '.join(values)}" for key, values in one["processSelector"].items())
        lines.append(_part("processSelector", f"only processes of {chosen}"))
    stale = one["statusGeneration"] is not None and one["statusGeneration"] < one["generation"]
    for each in one["conditions"]:
        if each["status"] != "True" or each["type"] in {"Paused", "Expired"}:
            since = f" (of generation {one['statusGeneration']})" if stale else ""
            reason = f"{each['reason']}: " if each["reason"] != each["type"] else ""
            lines.append(_part(each["type"], f"{each['status']}{since}: {reason}{each['message']}".rstrip(": ")))
    return lines


def _node(node: dict[str, Any] | None, paint: Painter) -> list[str]:
    if node is None:
        return []
    about = ", ".join(
        text
        for text in (
            f"kernel {node['kernel']}" if node.get("kernel") else "",
            f"agent {node['agentVersion']}" if node.get("agentVersion") else "",
        )
        if text
    )
    ready = paint.good("ready") if node["ready"] else paint.bad("not ready")
    lines = [_part("node", f"{node['node']}: {ready}{', ' if about else ''}{about}")]
    for probe in node.get("probes", ()):
        if probe["state"] != "Attached":
            why = ": ".join(filter(None, (probe.get("reason") or "", probe.get("message", ""))))
            lines.append(_part(f"probe {probe['name']}", f"{probe['state']}{': ' if why else ''}{why}"))
    return lines
