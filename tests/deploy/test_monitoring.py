"""The dashboard and the alert rules are about what a server exposes, and say what they should."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.clips import clip
from support.server import serving
from support.wire import live, s16le

from voxlive.errors import ERRORS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
CASES = DEPLOY / "prometheus" / "alerts_test.yml"
_OF_SCRAPING = {"job", "instance"}
_CODES = re.compile(r'code=~"([^"]+)"')
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def rules() -> list[dict]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def of_dashboard() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "voxlive.json").read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    variables = [one["definition"] for one in board["templating"]["list"] if "definition" in one]
    return panels + variables


def metrics(expressions: list[str]) -> set[str]:
    """The names of our metrics and of the process's in them."""
    return set(re.findall(r"\b(?:voxlive|process)_\w+", " ".join(expressions)))


def labels(expressions: list[str]) -> set[str]:
    """The labels by which they choose and sum up."""
    text = " ".join(expressions)
    grouped = ",".join(re.findall(r"\bby \(([^)]*)\)", text)).split(",")
    matched = re.findall(r"(\w+)=~?\"", text)
    return {name.strip() for name in grouped} | set(matched)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory) -> Iterator[str]:
    """Of a server with devices and a store that has had a session, a file and a refusal."""
    store = str(tmp_path_factory.mktemp("store"))
    options = ("--devices", "cpu*2", "--store", store)
    with serving(*options) as server, httpx.Client(base_url=server.url, timeout=120) as http:
        asyncio.run(live(server.ws, s16le(clip("yes").samples)))
        sound = clip("yes").path.read_bytes()
        http.post("/v1/audio/transcriptions", files={"file": sound}).raise_for_status()
        assert http.get("/v1/models/no-such-model").status_code == 404
        yield http.get("/metrics").text


@pytest.mark.long
def test_both_are_about_metrics_and_labels_that_there_are(scraped):
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scraped, re.M))
    exposed = {
        name + suffix for name, kind in kinds.items() for suffix in _SUFFIXES.get(kind, ("",))
    }
    told, alerts = of_dashboard(), [rule["expr"] for rule in rules()]
    assert metrics(told) - exposed == set()
    assert metrics(alerts) - exposed == set()
    # And the other way round: what there is of ours can be seen.
    seen = metrics(told)
    assert {name for name in kinds if name.startswith("voxlive_")} <= {
        re.sub("_(bucket|sum|count)$", "", name) for name in seen
    }
    families = list(text_string_to_metric_families(scraped))
    known = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels(told + alerts) - _OF_SCRAPING <= known
    codes = {
        code
        for expr in told + alerts
        for found in _CODES.findall(expr)
        for code in found.split("|")
    }
    assert codes
    assert codes <= set(ERRORS)
    up = [s.value for f in families if f.name == "voxlive_engine_up" for s in f.samples]
    assert up == [1]


def test_every_alert_is_tried_and_documented():
    cases = yaml.safe_load(CASES.read_text())["tests"]
    tried = [one for case in cases for one in case["alert_rule_test"]]
    raised = {one["alertname"] for one in tried if one.get("exp_alerts")}
    quiet = {one["alertname"] for one in cases[0]["alert_rule_test"]}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    assert raised == quiet == set(names)
    text = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


def test_promtool_agrees():
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("there is no promtool here: it is in Debian's package prometheus")
    for command in (["check", "rules", ALERTS.name], ["test", "rules", CASES.name]):
        done = subprocess.run(
            [promtool, *command], cwd=ALERTS.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
