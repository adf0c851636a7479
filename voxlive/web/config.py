"""``ServeConfig``: the options of a server, from the command line, a file and the environment.

A field of ``ServeConfig`` is an option: ``max_file_minutes`` is ``--max-file-minutes``, a key in
the config file's table ``[serve]``, and the variable ``VOXLIVE_MAX_FILE_MINUTES``. A new one is a
field here and the place that reads it; help, checks and the table in the documentation follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from voxlive.errors import CodedError
from voxlive.processes.supervisor import DEADLINE_S

if TYPE_CHECKING:
    from voxlive.engines.contract import EngineOptions
    from voxlive.runners.refusals import LoadOptions
    from voxlive.web.access.keys import Limits
    from voxlive.web.live_models import LiveSpec

KeptAudio = Literal["asked", "all"]
"""Whose audio is kept: that of sessions that ask for it, or of all that do not refuse."""


class ConfigError(CodedError, ValueError):
    """An option of a server cannot be used. The message names it and says what to change.

    ``fields`` are the options that it is about, as ``ServeConfig`` calls them.
    """

    code = "bad_config"

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message, fields[0] if fields else None)
        self.fields = fields


@dataclass(frozen=True, slots=True)
class Option:
    """What an option is beyond its type and default.

    ``low`` and ``high`` bound a number. ``check`` raises ValueError for a text that is not valid;
    it is called with every item of a list. ``shown_variable``: the help names the variable.
    """

    help: str
    low: float | None = None
    high: float | None = None
    metavar: str | None = None
    check: Callable[[str], object] | None = None
    shown_variable: bool = False

    def check_value(self, value: object) -> None:
        """Raise ValueError for a value that is out of bounds or not valid."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = self.low, self.high
            if low is not None and value < low:
                raise ValueError(f"{value:g} is less than {low:g}")
            if high is not None and value > high:
                raise ValueError(f"{value:g} is more than {high:g}")
        elif self.check and value is not None:
            for item in value if isinstance(value, list | tuple) else (value,):
                self.check(item)


def _option(default: object, help_text: str, *, secret: bool = False, **more: Any) -> Any:
    """A field of ``ServeConfig``; one with a ``secret`` in it is not shown by ``repr``."""
    return field(default=default, repr=not secret, metadata={"option": Option(help_text, **more)})


def _check_addresses(listed: str) -> None:
    for item in [] if listed == "*" else listed.split(","):
        ip_network(item.strip())


def _check_network(text: str) -> None:
    try:
        ip_network(text, strict=False)
    except ValueError:
        hint = "use an address, or a network as 192.168.1.0/24"
        raise ValueError(f"{text}: {hint}") from None


def _check_terms(text: str) -> None:
    from voxlive.recognisers.vocabulary import read_vocabulary

    try:
        read_vocabulary([text])
    except CodedError as error:
        raise ValueError(error.message) from None


def _check_devices(text: str) -> None:
    from voxlive.engines.pool import read_devices

    read_devices(text)


def _check_live(text: str) -> None:
    from voxlive.web.live_models import LiveSpec

    LiveSpec.parse(text)


def _check_keep(text: str) -> None:
    from voxlive.web.recorder import keep_time

    keep_time(text)


def _check_secret(text: str) -> None:
    from voxlive.web.access.keys import validate_secret

    validate_secret(text)


def _check_state(text: str) -> None:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("write it as redis://HOST:6379/0, rediss:// with TLS, or unix://PATH")


def _check_site(text: str) -> None:
    """Refuse a misspelt site at the start: later its pages would only be refused."""
    from voxlive.web.access.sites import ANY, Origin

    if text != ANY and Origin.parse(text) is None:
        raise ValueError(f"{text}: write a site as https://name, or https://name:8443")


def _check_url(text: str) -> None:
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise ValueError(f"{text}: write a URL as http://collector:4318")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The options of ``voxlive serve``, ``voxlive.serve`` and ``voxlive.create_app``.

    Raises ConfigError for a value that is not valid, and for options that exclude each other.
    """

    host: str = _option("127.0.0.1", "Address to listen on.")
    port: int = _option(8000, "0 takes any free port.", low=0, high=65535)
    open: bool = _option(False, "Show the page in this machine's browser when it is ready.")
    phone: bool = _option(
        False,
        "Serve phones in this network: on all addresses, https with a certificate made here, and a "
        "key made at each start, which is in a QR code to scan.",
    )
    workers: int = _option(
        1,
        "Server processes that share the port and the models, for more sessions than one core has "
        "time for: about 100.",
        low=1,
        high=64,
    )
    model: str | None = _option(
        None,
        "A model's short name, a local path or a hub repository, or replay:FOLDER. Default: "
        "whisper-base if it is here, else whisper-tiny.en.",
    )
    live: tuple[str, ...] = _option(
        (),
        "Another model for live sessions that name it, as NAME=MODEL or, with options of its "
        "own, NAME=MODEL,max-sessions=4,device=cpu; may be given again.",
        metavar="NAME=MODEL",
        check=_check_live,
    )
    max_sessions: int | None = _option(
        None, "Live sessions at a time. Default: what this machine can do.", low=1
    )
    device: Literal["gpu", "cpu"] | None = _option(
        None, "Where the model runs. Default: the best there is."
    )
    devices: str | None = _option(
        None,
        "An engine for each of several devices: all (GPUs), numbers of GPUs as 0,1, or cpu*4 for "
        "so many processes on the CPU. --max-sessions is divided among them.",
        metavar="DEVICES",
        check=_check_devices,
    )
    delay_ms: int | None = _option(
        None, "The model's own delay, for models that have one: more is better.", low=1
    )
    commit: Literal["fast", "steady", "pause"] | None = _option(
        None,
        "When a word counts as certain in sessions that choose no rule: soon, later with fewer "
        "errors, at the speaker's pause. Not for Voxtral. Default: steady.",
    )
    diarize: bool = _option(
        False,
        "Tell voices apart in sessions of clients that cannot ask for it, as WhisperLiveKit's. "
        "Needs: voxlive models fetch speaker-encoder.",
    )
    speaker_model: str | None = _option(
        None,
        "What tells voices apart live: a streaming Sortformer of mlx-audio, a folder or a hub "
        "repository, in a process of its own, for up to four voices. Default: the speaker-encoder.",
    )
    vocabulary: tuple[str, ...] = _option(
        (),
        "Names and terms to expect in every live session: with commas between, or a file of "
        "them with a name in .txt, one on each line. May be given again. Not for Voxtral.",
        metavar="TERMS",
        check=_check_terms,
    )
    quantize: Literal[4, 8] | None = _option(None, "Shrink the weights to so many bits on loading.")
    keep_quantized: bool = _option(
        False,
        "Leave weights that are stored quantised as they are. Otherwise an NVIDIA GPU with "
        "room for it unpacks them on loading, which is faster.",
    )
    offline: bool = _option(False, "Never download anything.")
    engine_timeout: float = _option(
        DEADLINE_S, "Seconds: an engine that has work and gets no further hangs.", low=1
    )
    file_model: str | None = _option(
        None, "The model for files that name none. Default: as for live sessions."
    )
    also: tuple[str, ...] = _option(
        (), "Another model for files, as NAME=PATH or NAME=whisper-base; may be given again."
    )
    max_file_minutes: float = _option(240, "How long the audio of one file may be.", low=0.01)
    max_resident: int = _option(2, "Models for files that stay in memory at a time.", low=1)
    model_idle: float = _option(300, "Unload a model that had no file for so many seconds.", low=1)
    file_niceness: int = _option(
        10,
        "How far work on files gives way to live sessions and other programs: 0, not at all, "
        "to 19.",
        low=0,
        high=19,
    )
    resume_seconds: float = _option(
        120,
        "How long a resumable session waits for its client, in seconds; 0: not at all.",
        low=0,
        high=86_400,
    )
    max_suspended: int = _option(
        64, "Sessions that may wait for their client at a time; the oldest gives way.", low=1
    )
    drain_seconds: float = _option(
        10,
        "How long sessions may go on at the end of the server, in seconds: for their last words, "
        "or up to a pause where the next server goes on with them.",
        low=0,
        high=3600,
    )
    store: str | None = _option(
        None,
        "Keep the transcripts of live sessions in this folder, or in PostgreSQL by a URL: "
        "postgresql://USER@HOST/NAME. Default: a folder of this user's where only this "
        "machine can connect, else nowhere.",
        metavar="FOLDER|URL",
        shown_variable=True,
        secret=True,
    )
    no_store: bool = _option(False, "Keep no transcripts.")
    keep: str = _option(
        "30d",
        "How long transcripts are kept: 30d, 12h, forever.",
        metavar="TIME",
        check=_check_keep,
    )
    keep_audio: KeptAudio | None = _option(
        None,
        "Keep the audio of stored sessions too: of those that ask for it, or of all but those "
        "that ask for the opposite. Default: none.",
    )
    audio_folder: Path | None = _option(
        None,
        "The folder of kept audio. Default: audio in the store's folder, or with PostgreSQL in the "
        "user's data folder.",
        metavar="FOLDER",
    )
    max_audio_gb: float = _option(20.0, "Keep no more audio than this of all sessions.", low=0.001)
    refine: str | None = _option(
        None,
        "Recognise sessions with kept audio again by this model, when they are over and no live "
        "session runs.",
        metavar="MODEL",
    )
    https: bool = _option(
        False,
        "Serve https with a certificate made here, so that browsers elsewhere give the page "
        "a microphone. They ask once whether to trust it.",
    )
    ssl_certfile: Path | None = _option(
        None, "Serve https with this certificate and its chain, in PEM form."
    )
    ssl_keyfile: Path | None = _option(
        None, "The certificate's key, if it is in a file of its own."
    )
    root_path: str = _option(
        "", "The path of a site that a reverse proxy serves this under, as /voxlive."
    )
    forwarded_allow_ips: str = _option(
        "127.0.0.1,::1",
        "Reverse proxies whose X-Forwarded-For and -Proto are believed: addresses and "
        "networks with commas between; * for all.",
        check=_check_addresses,
    )
    whisper_live_port: int | None = _option(
        None, "Also serve WhisperLive's clients, on this port (theirs is 9090).", low=0, high=65535
    )
    wyoming_port: int | None = _option(
        None, "Also serve Wyoming (Home Assistant), on this port (10300 there).", low=0, high=65535
    )
    wyoming_allow: tuple[str, ...] = _option(
        (),
        "An address or network, as 192.168.1.0/24, whose clients may use the Wyoming port: "
        "that protocol has no keys. Needed where there are keys.",
        metavar="ADDRESS",
        check=_check_network,
    )
    zeroconf: bool = _option(
        False, "Announce the Wyoming port in the network; needs the extra: discovery."
    )
    api_key: tuple[str, ...] = _option(
        (),
        "A key that clients must send; may be given several times. Other people on this "
        "machine can read the command line, but not the environment variable.",
        shown_variable=True,
        secret=True,
    )
    api_key_file: Path | None = _option(None, "A file with such keys, one on each line.")
    keys: Path | None = _option(
        None, "A TOML file of keys with names, scopes and limits: see docs/access.md."
    )
    ticket_key: str | None = _option(
        None,
        "What short-lived keys are signed with, so that they outlast this server and are good at "
        "others that have it. Default: made at each start.",
        shown_variable=True,
        secret=True,
        check=_check_secret,
    )
    ticket_key_file: Path | None = _option(None, "A file with that, on one line.")
    state: str | None = _option(
        None,
        "A Redis that this server shares with its replicas, by a URL: redis://HOST:6379/0. Keys' "
        "limits and captions are then those of all of them: see docs/replicas.md. Needs the extra: "
        "redis.",
        metavar="URL",
        shown_variable=True,
        secret=True,
        check=_check_state,
    )
    insecure: bool = _option(False, "Let everyone in who can reach the address, without a key.")
    max_session_minutes: float | None = _option(
        None, "How long one live session may last.", low=0.01
    )
    idle_timeout: float | None = _option(
        None, "End a live session after so many seconds without audio.", low=1
    )
    max_message_kb: float | None = _option(None, "The longest message on a WebSocket.", low=1)
    max_upload_mb: float = _option(50, "The longest file in a request.", low=0.001)
    rate: float | None = _option(
        None, "Live sessions and requests a minute, of all clients together.", low=0.01
    )
    allow_origin: tuple[str, ...] = _option(
        (),
        "Another web site whose pages may use this server, over HTTP and WebSockets, as "
        "https://name; * for all.",
        metavar="ORIGIN",
        check=_check_site,
    )
    allow_host: tuple[str, ...] = _option(
        (),
        "A name that a server without keys answers to besides localhost, this machine's own "
        "and addresses, such as the name of a site behind a reverse proxy; * for all.",
        metavar="NAME",
    )
    record: Path | None = _option(
        None,
        "Keep the audio, messages and timing of every live session in this folder, so that "
        "--model replay:FOLDER answers as this server did: see docs/replay.md.",
        metavar="FOLDER",
    )
    replacements: Path | None = _option(
        None,
        "A TOML file of words and phrases with what to write for them: tables [words] and "
        "[patterns] (regular expressions, RE2).",
        metavar="FILE",
    )
    audit_log: Path | None = _option(
        None,
        "Record who read, changed or deleted stored sessions in this file, as JSON lines.",
        metavar="FILE",
    )
    trace: str | None = _option(
        None,
        "Send a trace of every live session to this OpenTelemetry collector, by OTLP over HTTP; "
        "needs the extra: trace. Default: the one that OTEL_EXPORTER_OTLP_ENDPOINT names, if any.",
        metavar="URL",
        check=_check_url,
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        "warning", "How much is logged."
    )
    log_json: bool = _option(False, "Log a JSON object a line, for collectors of logs.")

    def __post_init__(self) -> None:
        """Check every value by itself, then options that exclude each other."""
        for name, option in OPTIONS.items():
            try:
                option.check_value(getattr(self, name))
            except ValueError as error:
                raise ConfigError(f"{name}: {error}", name) from None
        self.live_specs  # noqa: B018 (names that come twice)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        if self.no_store and self.store is not None:
            message = "--store keeps transcripts, --no-store none: choose one of them"
            raise ConfigError(message, "store", "no_store")
        if self.no_store and self.keep_audio is not None:
            raise ConfigError(
                "--keep-audio is for stored sessions, --no-store keeps none: choose one of them",
                "keep_audio",
                "no_store",
            )
        if self.device is not None and self.devices is not None:
            message = "--devices says where engines run, as --device does: choose one"
            raise ConfigError(message, "devices", "device")
        if self.ticket_key is not None and self.ticket_key_file is not None:
            message = "--ticket-key is in the file of --ticket-key-file: choose one"
            raise ConfigError(message, "ticket_key", "ticket_key_file")
        if self.state is not None and self.ticket_key is None and self.ticket_key_file is None:
            raise ConfigError(
                "--state is for several servers, which sign short-lived keys with the same: "
                "--ticket-key-file",
                "state",
            )
        if self.refine and self.keep_audio is None:
            raise ConfigError("--refine needs the audio of sessions: --keep-audio", "refine")
        if self.workers > 1:
            self._check_workers()
        if self.https and self.ssl_certfile is not None:
            raise ConfigError(
                "--https makes a certificate, --ssl-certfile brings one: choose one of them",
                "https",
                "ssl_certfile",
            )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            message = "--ssl-keyfile needs the certificate too: --ssl-certfile"
            raise ConfigError(message, "ssl_keyfile")
        if self.wyoming_port is None and (self.wyoming_allow or self.zeroconf):
            unused = "wyoming_allow" if self.wyoming_allow else "zeroconf"
            raise ConfigError(f"{option_name(unused)} needs --wyoming-port", unused)

    def _check_workers(self) -> None:
        """A session keeps its place in a recording with the engine that is in its process."""
        from voxlive.engines import names_engine

        models = (self.model, *(spec.model for spec in self.live_specs))
        if replayed := next((model for model in models if names_engine(model)), None):
            message = f"{replayed}: a replay works with one server process: --workers 1"
            raise ConfigError(message, "workers", "model")

    def with_model(self, model: str | None) -> Self:
        """The same options with another model; None changes nothing."""
        return self if model is None else replace(self, model=model)

    def for_phones(self, secret: str) -> Self:
        """The same options with what ``phone`` stands for; ``secret`` is its key."""
        if not self.phone:
            return self
        return replace(
            self,
            host="0.0.0.0" if self.host == "127.0.0.1" else self.host,  # noqa: S104
            https=self.ssl_certfile is None,
            api_key=self.api_key if self.insecure else (*self.api_key, secret),
        )

    @property
    def limits(self) -> Limits:
        """The limits of every client; those of its key may be lower."""
        from voxlive.web.access.keys import Limits

        return Limits(
            session_minutes=self.max_session_minutes,
            idle_s=self.idle_timeout,
            message_kb=self.max_message_kb,
            upload_mb=self.max_upload_mb,
            file_minutes=self.max_file_minutes,
            rate=self.rate,
        )

    @property
    def engine(self) -> EngineOptions:
        """How the engine for live sessions is loaded. Raises BadVocabulary for too many terms."""
        from voxlive.engines.contract import EngineOptions
        from voxlive.engines.pool import read_devices
        from voxlive.recognisers.vocabulary import read_vocabulary

        return EngineOptions(
            self.max_sessions,
            self.device,
            self.delay_ms,
            self.quantize,
            self.engine_timeout,
            self.keep_quantized,
            self.commit,
            read_vocabulary(self.vocabulary),
            read_devices(self.devices) if self.devices else (),
        )

    @property
    def live_specs(self) -> tuple[LiveSpec, ...]:
        """The live models beside the default. Raises ConfigError for a name that comes twice."""
        if not self.live:
            return ()
        from voxlive.web.live_models import read_specs

        try:
            return read_specs(self.live)
        except ValueError as error:
            raise ConfigError(f"live: {error}", "live") from None

    @property
    def shares_model(self) -> bool:
        """Whether files are transcribed by the model of the live sessions."""
        return self.file_model in (None, self.model)

    @property
    def load(self) -> LoadOptions:
        """How the model for files is loaded; most options apply to the live model alone."""
        from voxlive.runners.refusals import LoadOptions

        if self.shares_model:
            return LoadOptions(self.device, self.quantize, self.delay_ms, self.keep_quantized)
        return LoadOptions(self.device)


OPTIONS: dict[str, Option] = {
    option_field.name: option_field.metadata["option"] for option_field in fields(ServeConfig)
}
"""By the field's name, in the order in which the help shows them."""


SECTIONS = {
    "host": "Address",
    "model": "Live sessions",
    "file_model": "Files",
    "resume_seconds": "Sessions that outlast a connection",
    "store": "Kept transcripts",
    "https": "TLS and proxies",
    "whisper_live_port": "Other protocols",
    "api_key": "Access and limits",
    "record": "Text, recordings and logs",
}
"""Headings of the help by the first option below each."""


def section_of(name: str) -> str:
    """The heading below which the help has an option."""
    names = list(OPTIONS)
    before = names[: names.index(name) + 1]
    return next(SECTIONS[one] for one in reversed(before) if one in SECTIONS)


def option_name(name: str) -> str:
    """A field's name on the command line."""
    return f"--{name.replace('_', '-')}"


def variable_name(name: str) -> str:
    """A field's name in the environment."""
    return f"VOXLIVE_{name.upper()}"
