"""The composition names what the server, its image and HAProxy's configuration have.

It is read, not run: that needs a container runtime.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from voxlive.web.config import OPTIONS, option_name, variable_name

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "compose.yaml").read_text()
HAPROXY = ROOT / "deploy" / "haproxy.cfg"
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_replica_is_this_server_in_its_image(name):
    replica = SERVICES[name]
    target = replica["build"]["target"]
    assert f"\nFROM server AS {target}\n" in DOCKERFILE
    assert (ROOT / "deploy" / replica["build"]["context"] / "Dockerfile").samefile(
        ROOT / "Dockerfile"
    )
    options = {option_name(one) for one in OPTIONS}
    assert {arg for arg in replica["command"] if arg.startswith("--")} <= options
    variables = {variable_name(one) for one in OPTIONS} | {"VOXLIVE_CONFIG"}
    environment = replica["environment"]
    assert environment.keys() <= variables
    # The image has what those options need.
    extras = re.search(rf'AS build-{target}\n.*\n.*"\.\[([\w,]+)\]"', DOCKERFILE)[1].split(",")
    needed = re.search(r"Needs the extra: (\w+)", OPTIONS["state"].help)[1]
    assert {needed, "postgres"} <= {*extras}
    drain_s = int(replica["command"][replica["command"].index("--drain-seconds") + 1])
    assert drain_s + 15 <= seconds(replica["stop_grace_period"])
    assert replica["read_only"]
    assert {one.partition(":")[2] for one in replica["volumes"]} <= {"/models", "/data"}
    assert "user" not in replica
    assert environment["VOXLIVE_FORWARDED_ALLOW_IPS"] == address("haproxy")


def test_it_is_the_kubernetes_manifest_s_server():
    manifest = (ROOT / "deploy" / "kubernetes" / "voxlive.yaml").read_text()
    pod = next(yaml.safe_load_all(manifest))["spec"]["template"]["spec"]
    [container] = pod["containers"]
    command, environment = SERVICES["one"]["command"], SERVICES["one"]["environment"]
    assert [arg for arg in container["args"] if arg not in ("--host", "0.0.0.0")] == command
    settings = tomllib.loads(
        "".join(re.findall(r"printf '(\[serve\]\\n.*)\\n'", TEXT)).replace("\\n", "\n")
    )
    named = environment.keys() | {variable_name(one) for one in settings["serve"]}
    assert {one["name"] for one in container["env"]} == named - {"VOXLIVE_CONFIG"}


def address(name: str) -> str:
    return SERVICES[name]["networks"]["front"]["ipv4_address"]


def test_haproxy_finds_the_replicas_and_nobody_else_what_they_share():
    environment = SERVICES["haproxy"]["environment"]
    assert {*environment} == {*re.findall(r"presetenv (\w+)", HAPROXY.read_text())}
    port = re.search(r"VOXLIVE_PORT=(\d+)", DOCKERFILE)[1]
    assert environment["VOXLIVE_1"] == f"{address('one')}:{port}"
    assert environment["VOXLIVE_2"] == f"{address('two')}:{port}"
    [published] = SERVICES["haproxy"]["ports"]
    assert f":{published.rpartition(':')[2]}" == environment["VOXLIVE_BIND"]
    assert [name for name, one in SERVICES.items() if "ports" in one] == ["haproxy"]
    assert COMPOSE["networks"]["inside"]["internal"]
    inside = {name for name, one in SERVICES.items() if "inside" in one["networks"]}
    assert inside == {"one", "two", "redis", "postgres"}
    assert {*SERVICES["redis"]["networks"]} == {*SERVICES["postgres"]["networks"]} == {"inside"}
    if shutil.which("haproxy"):
        subprocess.run(
            ["haproxy", "-c", "-f", HAPROXY], env={**os.environ, **environment}, check=True
        )


def test_secrets_are_files_that_its_first_lines_make():
    made = {*re.findall(r"> secrets/([\w.-]+)", TEXT)}
    assert made == {*COMPOSE["secrets"]}
    assert {one["file"] for one in COMPOSE["secrets"].values()} == {f"secrets/{n}" for n in made}
    used = set()
    for name, service in SERVICES.items():
        values = service.get("environment", {}).values()
        files = {one.removeprefix("/run/secrets/") for one in values if one.startswith("/run/")}
        assert files == {*service.get("secrets", ())}, name
        used |= files
    assert used == made
    volumes = [v for one in SERVICES.values() for v in one.get("volumes", ()) if v[0] != "."]
    assert {one.partition(":")[0] for one in volumes} == {*COMPOSE["volumes"]}
    assert all(one["read_only"] for one in SERVICES.values())
