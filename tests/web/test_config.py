"""``ServeConfig``: defaults, names and invalid values."""

import pytest

from voxlive.web.config import OPTIONS, ConfigError, ServeConfig, option_name, variable_name


def test_defaults():
    config = ServeConfig()
    assert (config.host, config.port, config.model) == ("127.0.0.1", 8000, None)
    assert config.limits.upload_mb == 50
    assert config.engine.deadline_s == 30


def test_options_of_the_live_model_apply_to_files_if_shared():
    config = ServeConfig(model="voxtral", device="cpu", quantize=4, delay_ms=240)
    assert (config.engine.quantize, config.engine.delay_ms) == (4, 240)
    assert (config.load.quantize, config.load.delay_ms) == (4, 240)
    other = ServeConfig(model="voxtral", file_model="whisper", device="cpu", quantize=4)
    assert (other.load.device, other.load.quantize) == ("cpu", None)
    assert config.with_model("voxtral").model == "voxtral"
    assert config.with_model(None) is config


def test_the_rule_and_the_vocabulary_of_all_sessions(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Anne Elliot\nBath\n", "utf-8")
    config = ServeConfig(commit="fast", vocabulary=("Lyme, Bath", str(path)))
    assert config.engine.commit == "fast"
    assert config.engine.vocabulary == ("Lyme", "Bath", "Anne Elliot")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"port": 65536}, "port: 65536 is more than 65535"),
        ({"max_sessions": 0}, "max_sessions: 0 is less than 1"),
        ({"rate": 0.001}, "rate"),
        ({"allow_origin": ("https://a.test", "a.test")}, "allow_origin: a.test: write a site"),
        ({"wyoming_port": 0, "wyoming_allow": ("home",)}, "192.168.1.0/24"),
        ({"forwarded_allow_ips": "127.0.0.1,nginx"}, "nginx"),
        ({"https": True, "ssl_certfile": "cert.pem"}, "choose one"),
        ({"ssl_keyfile": "key.pem"}, "--ssl-certfile"),
        ({"vocabulary": ("a b c d e f",)}, "vocabulary: the term 'a b c d e f' is too long"),
        ({"vocabulary": ("/no/names.txt",)}, "vocabulary: /no/names.txt cannot be read"),
        ({"zeroconf": True}, "--zeroconf needs --wyoming-port"),
        ({"wyoming_allow": ("::1",)}, "--wyoming-allow needs --wyoming-port"),
    ],
)
def test_an_invalid_value_names_its_option(given, hint):
    with pytest.raises(ConfigError) as raised:
        ServeConfig(**given)
    assert hint in str(raised.value)


def test_keys_are_not_in_the_repr():
    assert "secret" not in repr(ServeConfig(api_key=("the-secret-of-the-hall",)))


def test_names_on_the_command_line_and_in_the_environment():
    assert "max_file_minutes" in OPTIONS
    assert option_name("max_file_minutes") == "--max-file-minutes"
    assert variable_name("max_file_minutes") == "VOXLIVE_MAX_FILE_MINUTES"
