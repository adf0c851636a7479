"""The options of ``serve`` from its command line, the environment and the config file."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from voxlive.cli import document
from voxlive.cli.main import app, serve
from voxlive.cli.options import serve_config
from voxlive.web.config import OPTIONS, SECTIONS, ServeConfig

FILE = """
[serve]
port = 8123
quantize = 4
https = true
rate = 2
allow-origin = ["https://a.test", "https://b.test"]
allow-host = "speech.test"
ssl-certfile = "cert.pem"
"""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch, tmp_path):
    for name in (*OPTIONS, "config"):
        monkeypatch.delenv(f"VOXLIVE_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def given(monkeypatch):
    """What ``serve`` was given: by its arguments, the config file's text and the environment."""
    seen: dict = {}
    [command] = [one for one in app.registered_commands if one.callback is serve]

    def instead(context, **options):
        seen.update(options)

    vars(instead).update(vars(serve))
    monkeypatch.setattr(command, "callback", instead)
    monkeypatch.setattr(command, "name", "serve")

    def run(*args: str, text: str = "", **env: str) -> dict:
        seen.clear()
        Path("voxlive.toml").write_text(text)
        command_line = ["--config", "voxlive.toml", "serve", *args]
        result = CliRunner().invoke(app, command_line, env=env)
        if result.exit_code:
            raise ValueError(f"{result.exit_code} {result.output}")
        return dict(seen)

    return run


def test_defaults_are_the_tables(given):
    assert serve_config(given()) == ServeConfig()


def test_every_kind_of_value_comes_from_the_config_file(given):
    found = given(text=FILE)
    assert (found["port"], found["quantize"], found["https"], found["rate"]) == (8123, "4", True, 2)
    assert found["allow_origin"] == ["https://a.test", "https://b.test"]
    assert found["allow_host"] == ["speech.test"]
    assert found["ssl_certfile"] == Path("cert.pem")
    config = serve_config(given(text="[serve]\nquantize = 4\n"))
    assert config.quantize == 4


LIVE = """
[serve.live]
accurate = "voxtral"
quick = { model = "whisper-base", max-sessions = 4, device = "cpu" }
"""


def test_live_models_come_as_a_table_as_a_list_and_from_the_environment(given):
    texts = ("accurate=voxtral", "quick=whisper-base,max-sessions=4,device=cpu")
    listed = ", ".join(f'"{text}"' for text in texts)
    for options in (
        serve_config(given(text=LIVE)),
        serve_config(given(text=f"[serve]\nlive = [{listed}]\n")),
        serve_config(given(VOXLIVE_LIVE=" ".join(texts))),
        serve_config(given("--live", texts[0], "--live", texts[1])),
    ):
        assert options.live == texts


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("quick = 4", '[serve.live] quick is "MODEL", or { model = "MODEL", max-sessions = 4 }'),
        ("quick = { max-sessions = 4 }", "[serve.live] quick is"),
        ('quick = { model = "b", slots = 4 }', "[serve.live]: quick: 'slots=4' is none of"),
        ('quick = { model = "b", max-sessions = 0 }', "quick: max-sessions: 0 is less than 1"),
        ('"a b" = "c"', "[serve.live]: 'a b': a name has no spaces"),
    ],
)
def test_a_wrong_table_of_live_models_names_the_file_and_the_key(given, table, reason):
    with pytest.raises(ValueError, match=r"voxlive\.toml: \[serve\.live\]") as refused:
        given(text=f"[serve.live]\n{table}\n")
    assert reason in str(refused.value)


def test_a_wrong_live_model_names_the_option_or_the_variable(given):
    with pytest.raises(ValueError, match="--live: a: device: 'tpu' is not gpu or cpu"):
        given("--live", "a=b,device=tpu")
    with pytest.raises(ValueError, match="VOXLIVE_LIVE: 'a' is not NAME=MODEL"):
        given(VOXLIVE_LIVE="a")


def test_the_command_line_comes_before_the_environment_before_the_file(given):
    env = {
        "VOXLIVE_PORT": "8200",
        "VOXLIVE_RATE": "3",
        "VOXLIVE_HTTPS": "1",
        "VOXLIVE_ALLOW_ORIGIN": "https://c.test https://d.test",
    }
    found = given("--port", "8300", text=FILE, **env)
    assert (found["port"], found["rate"], found["https"]) == (8300, 3, True)
    assert found["allow_origin"] == ["https://c.test", "https://d.test"]
    assert given(VOXLIVE_API_KEY="one two")["api_key"] == ["one", "two"]
    assert given(VOXLIVE_RATE="")["rate"] is None


def test_a_service_called_voxlive_in_kubernetes_does_not_set_the_port(given):
    assert given(VOXLIVE_PORT="tcp://10.0.0.1:8000", VOXLIVE_SERVICE_PORT="1")["port"] == 8000


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('port = "x"', "voxlive.toml: [serve] port: "),
        ("port = 70000", "voxlive.toml: [serve] port: "),
        ("port = true", "voxlive.toml: [serve] port is not true or false"),
        ("port = [1]", "voxlive.toml: [serve] port is one value, not a list"),
        ("serve.port = 1", "voxlive.toml: [serve] serve"),
        ("port = {a = 1}", "voxlive.toml: [serve] port is a value, not a table"),
        ("prot = 1", "voxlive.toml: [serve] prot is not one of host, port"),
        ("quantize = 5", "voxlive.toml: [serve] quantize: "),
        ('allow-origin = ["a"]', "voxlive.toml: [serve] allow-origin: a: write a site"),
        ('forwarded-allow-ips = "nginx"', "voxlive.toml: [serve] forwarded-allow-ips: "),
    ],
)
def test_an_invalid_value_is_one_line_with_file_table_and_key(given, text, hint):
    with pytest.raises(ValueError, match="2 voxlive: ") as raised:
        given(text=f"[serve]\n{text}\n")
    assert hint in str(raised.value)
    assert str(raised.value).count("\n") == 1


def test_options_that_exclude_each_other_say_where_each_was_set():
    Path("voxlive.toml").write_text("[serve]\nno-store = true\n")
    command = ["--config", "voxlive.toml", "serve", "--store", "kept"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert result.output == (
        "voxlive: --store keeps transcripts, --no-store none: choose one of them "
        "(voxlive.toml: [serve] no-store)\n"
    )


def test_an_invalid_value_in_the_environment_names_its_variable(given):
    with pytest.raises(ValueError, match="2 voxlive: VOXLIVE_PORT: "):
        given(VOXLIVE_PORT="x")
    with pytest.raises(ValueError, match="2 voxlive: VOXLIVE_ALLOW_ORIGIN: a: write a site"):
        given(VOXLIVE_ALLOW_ORIGIN="a")


def test_every_commands_table_is_checked_as_it_is_read():
    Path("voxlive.toml").write_text('[transcribe]\nmax-lines = "many"\n')
    result = CliRunner().invoke(app, ["--config", "voxlive.toml", "models"])
    assert result.exit_code == 2
    assert result.output.startswith("voxlive: voxlive.toml: [transcribe] max-lines: ")


def test_the_help_has_every_option():
    [command] = [
        found for name, found in typer.main.get_command(app).commands.items() if name == "serve"
    ]
    assert [one.name for one in command.params] == list(OPTIONS)
    assert all(one.help for one in command.params)
    assert {one.rich_help_panel for one in command.params} == set(SECTIONS.values())


def test_the_documentation_has_every_option():
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert "<!-- table: options -->" in text
    assert text == document.update_tables(text), "python -m voxlive.cli.document docs/operations.md"
