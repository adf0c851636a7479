"""The manifests name options, paths and metrics that a server has."""

import re
from pathlib import Path

import yaml

from voxlive.web.access.middleware import find_rule
from voxlive.web.config import OPTIONS, option_name, variable_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"


def test_the_manifests_are_about_this_server():
    found = [*yaml.safe_load_all((FOLDER / "voxlive.yaml").read_text())]
    kinds = {one["kind"]: one for one in found}
    assert len(kinds) == len(found) == 4
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    options = {option_name(name) for name in OPTIONS}
    assert {arg for arg in container["args"] if arg.startswith("--")} <= options
    assert {one["name"] for one in container["env"]} <= {variable_name(name) for name in OPTIONS}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert find_rule(container[probe]["httpGet"]["path"])[0] == "/health"
    drain_s = int(container["args"][container["args"].index("--drain-seconds") + 1])
    wait_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert drain_s + wait_s + 15 <= pod["terminationGracePeriodSeconds"]
    [rule] = yaml.safe_load((FOLDER / "adapter.yaml").read_text())
    [metric] = kinds["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    exposed = (ROOT / "voxlive" / "web" / "metrics.py").read_text()
    named = re.findall(r"voxlive_\w+(?={)", rule["metricsQuery"])
    assert len(named) == 2
    assert all(f'"{name}"' in exposed for name in named)
