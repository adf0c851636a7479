"""The Dockerfile: what it promises, and that deploy/try_image.py reads it as it is meant."""

import json
import re
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def trying() -> ModuleType:
    spec = spec_from_file_location("try_image", ROOT / "deploy" / "try_image.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_both_targets_serve_as_a_user_with_volumes_and_a_health_check(trying):
    stages = trying.read_dockerfile(TEXT)
    assert next(reversed(stages)) == "cpu"  # what is built without a target
    assert {stages[name].base for name in ("cpu", "cuda")} == {"server"}
    server = stages["server"]
    user, group = server.value("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(server.value("VOLUME")) == ["/models", "/data"]
    assert "/health/ready" in json.loads(server.value("HEALTHCHECK").partition("CMD ")[2])[-1]
    assert json.loads(server.value("ENTRYPOINT")) + json.loads(server.value("CMD")) == [
        "voxlive",
        "serve",
    ]


def test_what_it_installs_is_pinned_and_there(trying):
    stages = trying.read_dockerfile(TEXT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for name in ("cpu", "cuda"):
        install = stages[f"build-{name}"].value("RUN")
        assert "-c constraints.txt" in install
        for extra in re.search(r'"\.\[([\w,]+)\]"', install)[1].split(","):
            for wanted in project["optional-dependencies"][extra]:
                assert re.match(r"[\w-]+", wanted)[0] in pinned
    [uv] = re.findall(r"^UV_VERSION = (\S+)", (ROOT / "Makefile").read_text(), re.M)
    assert f" uv=={uv}" in TEXT
    # What is copied from here is let through.
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        word for kind, text in stages["build"].steps if kind == "COPY" for word in text.split()[:-1]
    ]
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_a_dockerfile_that_says_more_is_refused(trying):
    for text in ("FROM debian", "FROM debian AS one\nADD https://example.org /there"):
        with pytest.raises(ValueError, match=r"without a name|not known"):
            trying.read_dockerfile(text)
