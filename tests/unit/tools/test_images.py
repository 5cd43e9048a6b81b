# SPDX-License-Identifier: Apache-2.0
"""tools.images: what its parts agree on with the chart and the Dockerfile, and the runc that docker is given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.errors import ToolError
from tools.images import product, roots, wheels

_ROOT = Path(__file__).resolve().parents[3]
_CHART = _ROOT / "charts/kernelspan"
_RUNC = _ROOT / "tools/images/runc"
_IN_QUESTION = {"CAP_SYS_RESOURCE": 24, "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40}
_PLAIN = ["CAP_CHOWN", "CAP_KILL"]


def test_the_chart_asks_for_our_images() -> None:
    """By the names that `make images` gives, with the project's version for a tag."""
    values = yaml.safe_load((_CHART / "values.yaml").read_text("utf-8"))
    asked = {
        "operator": values["operator"]["image"]["repository"],
        "agent": values["agent"]["image"]["repository"],
        "jaeger": values["jaeger"]["image"]["repository"],
        "collector": values["jaeger"]["collector"]["image"]["repository"],
    }
    made = {image: product.image_name(image).partition(":")[0] for image in product.IMAGES if image != "shop"}
    assert asked == made
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == product.version()


def test_the_dockerfile_installs_what_our_root_has() -> None:
    """In a root of ours its apt-get finds all there already: it has no place to get more from."""
    text = (_ROOT / "Dockerfile").read_text("utf-8")
    installed = re.findall(r"apt-get install --yes --no-install-recommends (.*?) \\", text)
    assert [tuple(line.split()) for line in installed] == [product.OPERATOR_PACKAGES, product.AGENT_PACKAGES]


def test_a_root_is_known_by_its_packages() -> None:
    """In any order; another list is another root."""
    assert roots.key(["a", "b"]) == roots.key(["b", "a"]) != roots.key(["a"])


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "debian.sources",
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: x\n",
            "http://mirror.example/debian",
        ),
        ("some.list", "deb [signed-by=/k] https://mirror.example/debian/ x main\n", "https://mirror.example/debian"),
        ("other.sources", "Types: deb\nURIs: http://mirror.example/tools\nSuites: x\n", None),
    ],
)
def test_the_mirror_is_apts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, wanted: str | None
) -> None:
    """In either of apt's forms; what is no Debian archive is none."""
    (tmp_path / name).write_text(text)
    monkeypatch.setattr(roots, "_APT", tmp_path)
    assert roots.mirror() == wanted


def test_an_entry_of_a_lock() -> None:
    """One package's version and hashes alone, whatever stands around it."""
    lock = "a==1 \\\n    --hash=sha256:11\n    # via b\npip==2 \\\n    --hash=sha256:22 \\\n    --hash=sha256:33\n    # via c\nz==3 \\\n"
    assert wheels.entry(lock, "pip") == "pip==2 \\\n    --hash=sha256:22 \\\n    --hash=sha256:33\n"
    with pytest.raises(ToolError, match="names q"):
        wheels.entry(lock, "q")


def _limited(bundle: Path, capabilities: list[str], *command: str) -> dict[str, Any]:
    """What the runc of ours makes of a process that asks for these capabilities."""
    process = {"capabilities": {"bounding": capabilities, "ambient": None}, "oomScoreAdj": -999}
    of_bundle = command[0] == "create"
    path = bundle / ("config.json" if of_bundle else "process.json")
    path.write_text(json.dumps({"process": process} if of_bundle else process))
    environment = {**os.environ, "KERNELSPAN_RUNC": "/bin/true"}
    subprocess.run([sys.executable, str(_RUNC), "--root", "/x", *command, "name"], env=environment, check=True)
    found = json.loads(path.read_text())
    return dict(found["process"] if of_bundle else found)


def _ours() -> set[str]:
    text = Path("/proc/self/status").read_text("ascii")
    bounds = int(next(line for line in text.splitlines() if line.startswith("CapBnd:")).split()[1], 16)
    return {name for name, bit in _IN_QUESTION.items() if bounds >> bit & 1}


def test_runc_gives_the_privileged_what_we_have(tmp_path: Path) -> None:
    """Of the capabilities in question those of this process, whether asked for or not; the others as they were."""
    asked = [*_PLAIN, "CAP_SYS_MODULE", "CAP_SYS_RESOURCE"]
    for option in (("--bundle", str(tmp_path)), (f"--bundle={tmp_path}",), ("-b", str(tmp_path))):
        found = _limited(tmp_path, asked, "create", *option)["capabilities"]["bounding"]
        assert set(found) == {*_PLAIN, "CAP_SYS_MODULE"} | _ours()


def test_runc_gives_others_no_more_than_they_ask_for(tmp_path: Path) -> None:
    """Nothing is added; what cannot be given is left out, also where `exec` asks."""
    path = str(tmp_path / "process.json")
    found = _limited(tmp_path, [*_PLAIN, "CAP_SYS_RESOURCE"], "exec", "--process", path)
    assert set(found["capabilities"]["bounding"]) == set(_PLAIN) | (_ours() & {"CAP_SYS_RESOURCE"})
    assert found["capabilities"]["ambient"] is None
    assert found["oomScoreAdj"] == max(-999, int(Path("/proc/self/oom_score_adj").read_text()))
