"""``voxlive serve``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..streaming.supervisor import DEADLINE_S
from .access import (
    AllowHost,
    AllowOrigin,
    ApiKey,
    ApiKeyFile,
    IdleTimeout,
    Insecure,
    Keys,
    MaxMessageKb,
    MaxSessionMinutes,
    MaxUploadMb,
    Rate,
    check_exposure,
    keys_of,
    origins_of,
)
from .console import fail, start_logging
from .extra_ports import WhisperLivePort, WyomingAllow, WyomingPort, Zeroconf, wyoming_options
from .files import AlsoModel, FileModel, MaxFileMinutes, MaxResident, ModelIdle, open_catalogue
from .greeting import greet
from .options import DelayMs, Device, Model, Offline, Quantize, open_service
from .secure import (
    ForwardedAllowIps,
    Https,
    RootPath,
    SslCertfile,
    SslKeyfile,
    tls_context,
)

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
    from ..runners.batch import BatchOptions
    from ..runners.policy import LoadOptions
    from ..streaming.options import EngineOptions
    from ..web.access.limits import Limits
    from ..web.ports import CannotListen, open_ports
    from ..web.root_path import clean
    from ..web.server import ServerOptions, run
    from ..web.sites import own_names

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
    catalogue = open_catalogue(file_model or model, also, load, offline=offline)
    engine = EngineOptions(max_sessions, device, delay_ms, bits, offline, engine_timeout)
    service = open_service(model, engine, apart=True)
    info = service.engine.info
    if same:
        catalogue.answers_to(info.model)

    def ready() -> None:
        greet(info, ports, tls=tls is not None, for_phones=https)

    run(ports, service, catalogue, options, ready)
