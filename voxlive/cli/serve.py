"""What ``serve`` says when it is ready: what runs, and where to go.

Options of ``serve`` for protocols that have a port of their own.

``voxlive serve``.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxlive.cli.access import (
    AllowHost,
    AllowOrigin,
    ApiKey,
    ApiKeyFile,
    ForwardedAllowIps,
    Https,
    IdleTimeout,
    Insecure,
    Keys,
    MaxMessageKb,
    MaxSessionMinutes,
    MaxUploadMb,
    Rate,
    RootPath,
    SslCertfile,
    SslKeyfile,
    check_exposure,
    keys_of,
    origins_of,
    tls_context,
)
from voxlive.cli.console import MISUSED, fail, start_logging
from voxlive.cli.options import (
    AlsoModel,
    DelayMs,
    Device,
    FileModel,
    MaxFileMinutes,
    MaxResident,
    Model,
    ModelIdle,
    Offline,
    Quantize,
    open_catalogue,
    open_model,
    open_service,
)
from voxlive.processes.supervisor import DEADLINE_S

if TYPE_CHECKING:
    from voxlive.engines.contract import EngineInfo
    from voxlive.web.ports import Ports
    from voxlive.web.protocols.wyoming.listener import Network, WyomingOptions


def greet(info: EngineInfo, ports: Ports, *, tls: bool, for_phones: bool) -> None:
    """Every line on stdout. ``for_phones``: others were meant to reach it."""
    from voxlive.web.ports import is_local, url, urls_elsewhere

    sessions = "1 session" if info.capacity == 1 else f"{info.capacity} sessions"
    _say(f"{info.model} on {info.device}, {sessions} at a time")
    if info.note:
        _say(info.note)
    if ports.whisper_live:
        _say(f"WhisperLive's clients at {url(ports.whisper_live, 'wss' if tls else 'ws')}")
    if ports.wyoming:
        _say(f"Wyoming's clients at {url(ports.wyoming, 'tcp')}")
    scheme = "https" if tls else "http"
    _say(f"ready at {url(ports.main, scheme)}")
    for elsewhere in urls_elsewhere(ports.main, scheme):
        _say(f"on other machines and phones: {elsewhere}")
    if for_phones and is_local(ports.main):
        _say("for other machines and phones: --host 0.0.0.0")


def _say(line: str) -> None:
    typer.echo(f"voxlive: {line}")


WhisperLivePort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Also serve WhisperLive's clients, on this port (theirs is 9090)."
    ),
]
WyomingPort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help="Also serve Wyoming (Home Assistant), on this port (10300 there)."
    ),
]
WyomingAllow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="An address or network, as 192.168.1.0/24, whose clients may use the Wyoming port: "
        "that protocol has no keys. Needed where there are keys.",
    ),
]
Zeroconf = Annotated[
    bool,
    typer.Option(
        "--zeroconf", help="Announce the Wyoming port in the network; needs the extra: discovery."
    ),
]


def wyoming_options(
    port: int | None, allow: list[str] | None, announce: bool, keyed: bool, insecure: bool
) -> WyomingOptions | None:
    """Who may use the Wyoming port; one line and an exit code for what cannot be."""
    from voxlive.web.protocols.wyoming.listener import ANYWHERE, THIS_MACHINE, WyomingOptions

    if port is None:
        if allow or announce:
            fail(f"{'--wyoming-allow' if allow else '--zeroconf'} needs --wyoming-port", MISUSED)
        return None
    if announce:
        _check_zeroconf()
    allowed = tuple(_network(text) for text in allow or ())
    if insecure:
        allowed = ANYWHERE
    elif not keyed:
        allowed += THIS_MACHINE
    if not allowed:
        fail(
            "Wyoming's clients send no key: say with --wyoming-allow which addresses may use it",
            MISUSED,
        )
    return WyomingOptions(allowed, announce)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        fail(f"--wyoming-allow {text}: use an address, or a network as 192.168.1.0/24", MISUSED)


def _check_zeroconf() -> None:
    from importlib.util import find_spec

    if find_spec("zeroconf") is None:
        fail("--zeroconf needs the package zeroconf: install voxlive[discovery]")


LogLevel = Literal["debug", "info", "warning", "error"]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    model: Model = "pocketsphinx",
    max_sessions: Annotated[
        int | None,
        typer.Option(min=1, help="Live sessions at a time. Default: what this machine can do."),
    ] = None,
    device: Device = None,
    delay_ms: DelayMs = None,
    quantize: Quantize = None,
    offline: Offline = False,
    engine_timeout: Annotated[
        float,
        typer.Option(min=1, help="Seconds: an engine that has work and gets no further hangs."),
    ] = DEADLINE_S,
    file_model: FileModel = None,
    also: AlsoModel = None,
    max_file_minutes: MaxFileMinutes = 240,
    max_resident: MaxResident = 2,
    model_idle: ModelIdle = 300,
    https: Https = False,
    ssl_certfile: SslCertfile = None,
    ssl_keyfile: SslKeyfile = None,
    root_path: RootPath = "",
    forwarded_allow_ips: ForwardedAllowIps = "127.0.0.1,::1",
    whisper_live_port: WhisperLivePort = None,
    wyoming_port: WyomingPort = None,
    wyoming_allow: WyomingAllow = None,
    zeroconf: Zeroconf = False,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    keys: Keys = None,
    insecure: Insecure = False,
    max_session_minutes: MaxSessionMinutes = None,
    idle_timeout: IdleTimeout = None,
    max_message_kb: MaxMessageKb = None,
    max_upload_mb: MaxUploadMb = 50,
    rate: Rate = None,
    allow_origin: AllowOrigin = None,
    allow_host: AllowHost = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much is logged.")] = "warning",
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log a JSON object a line, for collectors of logs.")
    ] = False,
) -> None:
    """Serve the page, the live protocols and the HTTP API."""
    from voxlive.engines.contract import EngineOptions
    from voxlive.runners.batch import BatchOptions
    from voxlive.runners.refusals import LoadOptions
    from voxlive.web.access.keys import Limits
    from voxlive.web.access.sites import own_names
    from voxlive.web.app import clean
    from voxlive.web.ports import CannotListen, open_ports
    from voxlive.web.server import ServerOptions, run

    start_logging(log_level, as_json=log_json)
    tls = tls_context(host, ssl_certfile, ssl_keyfile, https)
    known = keys_of(api_key, api_key_file, keys)
    limits = Limits(
        session_minutes=max_session_minutes,
        idle_s=idle_timeout,
        message_kb=max_message_kb,
        upload_mb=max_upload_mb,
        file_minutes=max_file_minutes,
        rate=rate,
    )
    wyoming = wyoming_options(wyoming_port, wyoming_allow, zeroconf, bool(known), insecure)
    options = ServerOptions(
        origins_of(allow_origin),
        frozenset(allow_host or ()) | own_names(host),
        tls,
        clean(root_path),
        forwarded_allow_ips,
        known,
        limits,
        wyoming,
        BatchOptions(idle_s=model_idle, max_resident=max_resident),
    )
    try:
        ports = open_ports(host, port, whisper_live_port, wyoming_port)
    except CannotListen as error:
        fail(str(error))
    check_exposure(host, ports.main, known, insecure)
    bits = int(quantize) if quantize else None
    same = file_model in (None, model)
    load = LoadOptions(device, bits, delay_ms) if same else LoadOptions(device)
    local = open_model(model, offline=offline)
    for_files = local if same else open_model(file_model or model, offline=offline)
    catalogue = open_catalogue(for_files, also, load, offline=offline)
    engine = EngineOptions(max_sessions, device, delay_ms, bits, engine_timeout)
    service = open_service(local, engine, apart=True)
    info = service.engine.info
    if same:
        catalogue.answers_to(info.model)

    def ready() -> None:
        greet(info, ports, tls=tls is not None, for_phones=https)

    run(ports, service, catalogue, options, ready)
