"""``voxlive serve``: what starts, and what is refused in one line; ``voxlive key``."""

import httpx
import pytest
from support.keys import bearer
from support.server import serving
from typer.testing import CliRunner

from voxlive.cli.main import app
from voxlive.web.access.keys import digest, read_keys

KEY, OTHER, SHORT = "the-key-for-all-of-it", "another-key-of-the-hall", "short-key"


def refused(*args: str, **env: str) -> str:
    """The one line that a server says which does not start."""
    result = CliRunner().invoke(app, ["serve", "--port", "0", *args], env=env)
    assert result.exit_code == 2, result.output
    return result.output


def test_a_public_address_needs_keys_or_insecure():
    line = refused("--host", "0.0.0.0")
    assert "--api-key" in line
    assert "--insecure" in line
    assert "choose one" in refused("--insecure", VOXLIVE_API_KEY=KEY)


def test_a_bad_key_is_one_line_without_the_key(tmp_path):
    lines = tmp_path / "keys"
    lines.write_text(f"{KEY} {SHORT}\n")
    table = tmp_path / "keys.toml"
    table.write_text(f'[a]\nkey = "{SHORT}"\n')
    for path in (lines, table):
        path.chmod(0o600)
    for said in (
        refused(VOXLIVE_API_KEY=SHORT),
        refused("--api-key", SHORT),
        refused("--api-key-file", str(lines)),
        refused("--keys", str(table)),
        refused("--keys", str(tmp_path / "none.toml")),
        refused("--api-key", KEY, "--api-key", KEY),
    ):
        assert said.startswith("voxlive: ")
        assert said.count("\n") == 1
        assert SHORT not in said
        assert KEY not in said


def test_a_generated_key_is_accepted_by_its_table():
    made = CliRunner().invoke(app, ["key", "the hall"])
    secret, *_, name, table = made.output.split("\n")[:-1]
    [key] = read_keys(f"{name}\n{table}")
    assert (key.name, key.digest) == ("the hall", digest(secret))


def test_keys_from_the_environment_and_from_a_file_count_on_loopback_too(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{OTHER}\n")
    file.chmod(0o600)
    with serving("--api-key-file", str(file), key=KEY) as server:
        for secret, status in ((KEY, 200), (OTHER, 200), (KEY + "x", 401)):
            answer = httpx.get(f"{server.url}/v1/models", headers=bearer(secret))
            assert answer.status_code == status


@pytest.mark.long
def test_a_phone_is_served_with_a_key_of_its_own_and_the_page_is_opened(tmp_path):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part; mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    env = {"BROWSER": f"{browser} %s"}
    with serving("--phone", "--open", cache=tmp_path / "cache", env=env) as server:
        line = next(line for line in server.process.stdout if "#key=" in line)
        address, key = line.strip().split("/#key=")
        assert address.startswith("https://")
        assert "127.0.0.1" not in address
        for headers, status in (({}, 401), (bearer(key), 200)):
            asked = httpx.get(f"{address}/v1/models", headers=headers, verify=server.tls)
            assert asked.status_code == status
    assert opened.read_text().strip() == server.url


def test_an_address_of_another_machine_is_one_line(failed):
    assert "192.0.2.1" in failed("serve", "--host", "192.0.2.1")
    assert "no.such.host.invalid" in failed("serve", "--host", "no.such.host.invalid")


def test_certificates_that_cannot_be_used_are_one_line(failed, tmp_path):
    absent = tmp_path / "absent.pem"
    assert f"cannot read {absent}" in failed("serve", "--ssl-certfile", absent)
    assert "--ssl-certfile" in failed("serve", "--ssl-keyfile", absent)
    assert "choose one" in failed("serve", "--https", "--ssl-certfile", absent)


def test_an_audit_log_that_cannot_be_written_is_one_line(failed, tmp_path):
    log = tmp_path / "absent" / "audit.jsonl"
    said = failed("serve", "--port", "0", "--no-store", "--audit-log", log)
    assert f"cannot write {log}: No such file" in said


def test_proxies_are_addresses(failed):
    assert "nginx" in failed("serve", "--forwarded-allow-ips", "127.0.0.1,nginx")
