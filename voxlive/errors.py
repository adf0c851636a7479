"""The root of all errors, and the table from their codes to HTTP statuses and WebSocket closes.

A code is stable and for programs; the message beside it is for people, says what to do, and may
change. Whoever raises an error chooses its code; ``ERRORS`` decides its HTTP status and the code
with which a WebSocket is closed. A protocol that needs other numbers declares them itself.

    raise RequestRefused("too_big", "the body may have 64000 bytes", "file")

An exception that never leaves the part that raises it is not a ``VoxliveError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_MAX_LISTED = 8
_DEFAULT_STATUS, _DEFAULT_CLOSE = 500, 1011


class VoxliveError(Exception):
    """A refusal or a failure. It can be pickled.

    ``code`` is a key of ``ERRORS``, ``message`` is for people, ``param`` names the field of the
    request that is wrong, ``retry_after_s`` is when a retry makes sense, in seconds from now.
    """

    code: str

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status."""
        return status_of(self.code)

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses have other arguments than this class, and must cross processes all the same.
        return _restore, (type(self), self.__dict__)


def _restore(kind: type[VoxliveError], state: dict[str, object]) -> VoxliveError:
    error = kind.__new__(kind, state["message"])
    error.__dict__.update(state)
    return error


class CodedError(VoxliveError):
    """An error whose class fixes its code."""

    def __init__(
        self, message: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(self.code, message, param, retry_after_s)


class RequestRefused(VoxliveError):
    """A request or a job is refused.

    ``status`` is given only where it differs from that of the code.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        *,
        status: int | None = None,
    ) -> None:
        super().__init__(code, message, param, retry_after_s)
        self._status = status

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._status or super().status


class ProtocolError(VoxliveError):
    """The client broke the protocol: its session ends."""


class BadAudio(CodedError, ValueError):
    """The audio cannot be decoded. The message says what is wrong with it and what to do."""

    code = "bad_audio"

    def __init__(self, message: str) -> None:
        super().__init__(message, "file")


class BadInput(CodedError):
    """There is no such file to transcribe; the message says so."""

    code = "bad_input"


class EngineError(VoxliveError):
    """An engine refuses or fails."""


class EngineFull(EngineError):
    """Every slot is taken."""

    def __init__(self, capacity: int) -> None:
        message = f"all {capacity} sessions of this server are in use; try again when one has ended"
        super().__init__("server_full", message)


class UnsupportedOption(EngineError):
    """The engine cannot do what the stream asks for."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__("unsupported_option", message, param)


class VadError(CodedError):
    """The voice detector refuses or fails."""

    code = "vad_failed"


class CheckpointError(CodedError):
    """A checkpoint cannot be used. The message names the file or key and says what to do."""

    code = "checkpoint_error"


class CheckpointNotFound(CheckpointError):
    """No such folder, alias, repository or revision."""

    code = "checkpoint_not_found"


class NotDownloaded(CheckpointError):
    """The files are not on this machine and the network was not allowed or did not answer."""

    code = "checkpoint_not_downloaded"


class IncompleteCheckpoint(CheckpointError):
    """Files that belong to the checkpoint are missing."""

    code = "checkpoint_incomplete"


class DamagedFile(CheckpointError):
    """A file is cut short or is not what its name says."""

    code = "checkpoint_damaged"


class UnsupportedConfig(CheckpointError):
    """A config lacks a key, or holds a value that this model code does not implement."""

    code = "unsupported_config"


class WeightsMismatch(CheckpointError):
    """Tensors are missing, unknown, misshaped or of a wrong kind."""

    code = "weights_mismatch"


class WrongTokenizer(CheckpointError):
    """The tokenizer lacks what the model needs, or belongs to another model."""

    code = "wrong_tokenizer"


def listed(names: Iterable[str]) -> str:
    """Names joined for a message, sorted; of many the first few and how many more."""
    every = sorted(names)
    rest = len(every) - _MAX_LISTED
    return ", ".join(every[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def mib(size: int) -> str:
    """A number of bytes for a message."""
    return f"{size / 2**30:.1f} GiB" if size >= 10 << 30 else f"{size >> 20} MiB"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What a code is over HTTP and WebSocket, and what it means.

    ``status`` None: no HTTP response has it. ``close`` None: it closes no WebSocket.
    """

    status: int | None
    close: int | None
    meaning: str


def status_of(code: str) -> int:
    """The HTTP status of an error; 500 where the table has none."""
    return _info(code).status or _DEFAULT_STATUS


def close_code(code: str) -> int:
    """The WebSocket close code of an error that ends a session; 1011 where the table has none."""
    return _info(code).close or _DEFAULT_CLOSE


def _info(code: str) -> ErrorInfo:
    return ERRORS.get(code, ERRORS["internal"])


ERRORS: Mapping[str, ErrorInfo] = MappingProxyType(
    {
        # What a client sent.
        "bad_audio": ErrorInfo(400, 4400, "nothing in the audio can be decoded"),
        "bad_field": ErrorInfo(400, None, "a form field of the wrong kind or out of its range"),
        "bad_granularity": ErrorInfo(400, None, "`timestamp_granularities[]` that do not fit"),
        "bad_language": ErrorInfo(
            400, None, "the language is no code, locale or English name that is known here"
        ),
        "bad_message": ErrorInfo(400, None, "a message that cannot be read; the session goes on"),
        "bad_parameter": ErrorInfo(400, 4400, "a parameter of the URL or an option is wrong"),
        "bad_request": ErrorInfo(400, None, "a body that cannot be read"),
        "bad_start": ErrorInfo(400, 4400, "the first message is not a valid start"),
        "bad_task": ErrorInfo(400, None, "the task is neither transcribe nor translate"),
        "invalid_json": ErrorInfo(400, None, "a body or a message that is no JSON object"),
        "invalid_value": ErrorInfo(400, None, "a field of a JSON object that cannot be in force"),
        "language_required": ErrorInfo(
            400,
            None,
            "no language, and the model needs one; the message lists what it knows",
        ),
        "missing_file": ErrorInfo(400, None, "a form without the audio"),
        "unknown_value": ErrorInfo(400, None, "a form field that is none of the values there are"),
        # OpenAI's and vLLM's realtime messages; the session goes on.
        "input_audio_buffer_commit_empty": ErrorInfo(
            400, None, "a commit with less than 100 ms of audio"
        ),
        "invalid_audio": ErrorInfo(400, None, "an append whose audio cannot be read"),
        "invalid_event": ErrorInfo(400, None, "a message with a field that cannot be read"),
        "model_not_validated": ErrorInfo(400, None, "a commit before the model was named"),
        "unknown_event": ErrorInfo(400, None, "a message of a type that there is not"),
        "too_late": ErrorInfo(409, None, "an option that can change before the first audio only"),
        # Who is let in, and how much of everything.
        "invalid_api_key": ErrorInfo(
            401, 4401, "no key, or one that is wrong or expired, where one is needed"
        ),
        "forbidden": ErrorInfo(403, 4403, "the key, or the address, is not for this"),
        "foreign_origin": ErrorInfo(403, None, "a page of another site asks"),
        "unknown_host": ErrorInfo(421, None, "the server does not go by this name"),
        "unknown_session": ErrorInfo(
            404,
            4404,
            "no session has this id, or can be resumed with this token: it is over, was deleted, "
            "was never there, or is another key's",
        ),
        "resume_gap": ErrorInfo(
            None, 4409, "a session cannot be resumed without losing audio or messages"
        ),
        "taken_over": ErrorInfo(None, 4409, "another connection has resumed this session"),
        "name_in_use": ErrorInfo(409, 4409, "another key's session has this captions name now"),
        "no_such_link": ErrorInfo(
            404, None, "a link for reading along that is not whole, has expired or was revoked"
        ),
        "too_little_voice": ErrorInfo(
            None, None, "a speaker was heard too little for their voice to be remembered"
        ),
        "no_such_profile": ErrorInfo(404, None, "no voice profile of the key has this id"),
        "too_many_links": ErrorInfo(409, None, "the key has as many links as it may have"),
        "rate_limit_exceeded": ErrorInfo(429, 4429, "more requests than the key or server allows"),
        "too_many_sessions": ErrorInfo(429, 4429, "more sessions at a time than the key allows"),
        "too_many_readers": ErrorInfo(503, None, "the session's captions have no more readers"),
        # What is not there.
        "not_found": ErrorInfo(404, None, "there is nothing at this path"),
        "method_not_allowed": ErrorInfo(405, None, "the path is there, for another method"),
        "not_refined": ErrorInfo(409, None, "the session has no refined layer (yet)"),
        "still_running": ErrorInfo(409, None, "a session that is not over cannot be refined yet"),
        "refining": ErrorInfo(409, None, "another model refines this session now"),
        "no_audio": ErrorInfo(404, None, "the audio of this session is not kept"),
        "bad_range": ErrorInfo(416, None, "a range of bytes beyond the end of the audio"),
        "no_device": ErrorInfo(404, None, "a device that is not here, or is none of the pool's"),
        "device_busy": ErrorInfo(
            409, None, "the last device in service, or one that is being taken out or put back"
        ),
        "no_such_session": ErrorInfo(404, None, "no live session has this id or name now"),
        "model_not_found": ErrorInfo(
            404,
            4404,
            "the name is no model of this server; close matches are listed, for live sessions all "
            "names. A hub name must have been fetched before (`voxlive models pull`), and a path "
            "is never taken for a name",
        ),
        # How long and how large.
        "audio_too_long": ErrorInfo(413, None, "the audio is longer than the server's limit"),
        "too_big": ErrorInfo(413, 1009, "an upload, a body or a frame above the server's limit"),
        "idle": ErrorInfo(408, 1008, "there was no audio, or nothing at all, for long"),
        "session_expired": ErrorInfo(408, 1001, "the session has had its time"),
        "slow_client": ErrorInfo(408, 1008, "the client does not read what it is sent"),
        # What the model cannot do.
        "endless_text": ErrorInfo(
            422,
            None,
            "a text that the model does not bring to an end, however short the audio is cut",
        ),
        "no_speakers": ErrorInfo(
            422,
            None,
            "speakers from a model that does not tell them apart, where "
            "`voxlive models fetch speaker-encoder` has not brought what tells voices",
        ),
        "no_times": ErrorInfo(
            422, None, "subtitles or segments with times from a model that knows none"
        ),
        "no_word_times": ErrorInfo(422, None, "word times from a model that knows none"),
        "unsupported_language": ErrorInfo(
            422, None, "a language that the model is known not to know"
        ),
        "unsupported_model": ErrorInfo(
            422,
            None,
            "the model makes no text of speech: text-only, encoder-only, a forced aligner",
        ),
        "unsupported_option": ErrorInfo(
            422,
            4400,
            "an option that the engine or the server does not have; 400 for `stream` with a format "
            "that is sent whole",
        ),
        "unsupported_parameter": ErrorInfo(
            422, None, "a limit of tokens, of a model that writes none"
        ),
        "unsupported_task": ErrorInfo(
            422,
            None,
            "translation by a model that was not taught to, such as Whisper turbo, distil or .en",
        ),
        "unusable_model": ErrorInfo(
            422,
            None,
            "weights and config do not fit together, or the tokenizer is a program of its own",
        ),
        # What the installation lacks.
        "missing_dependency": ErrorInfo(
            501, None, "the backend is not installed; the message says what to install"
        ),
        "unknown_model_type": ErrorInfo(501, None, "its config is of no family known here"),
        "unsupported_by_backend": ErrorInfo(
            501, None, "the installed backend has no code for this family"
        ),
        "no_store": ErrorInfo(
            501, None, "the server keeps no sessions; `--store` has it keep them"
        ),
        "no_profiles": ErrorInfo(
            501, None, "the server remembers no voices: it needs a store and a key to seal them"
        ),
        "unsupported_checkpoint": ErrorInfo(
            501,
            None,
            "the family is known, but this form of its files has to be converted first",
        ),
        # For now.
        "model_unhealthy": ErrorInfo(
            503,
            None,
            "files are missing or damaged: shards, tokenizer, headers; the message says what to do",
        ),
        "models_busy": ErrorInfo(
            503, None, "other models are at work in all places that there are"
        ),
        "no_process": ErrorInfo(503, None, "no process can be started at the moment"),
        "queue_full": ErrorInfo(
            503, None, "too many files wait or arrive already; comes with Retry-After"
        ),
        "runner_replaced": ErrorInfo(503, None, "the model is being loaded anew"),
        "server_full": ErrorInfo(503, 1013, "every session of the server is in use"),
        "store_busy": ErrorInfo(
            503, 1013, "the database of the sessions is held by another program: try again"
        ),
        "shutting_down": ErrorInfo(503, 1012, "the server is going down"),
        "state_unavailable": ErrorInfo(
            503, 1013, "what the replicas of the server share cannot be reached: try again"
        ),
        "timeout": ErrorInfo(503, None, "it took longer than audio of this length may take"),
        # Memory and disk.
        "insufficient_memory": ErrorInfo(
            507, None, "the model needs more memory than there is, with the numbers"
        ),
        "insufficient_storage": ErrorInfo(507, None, "the server's disk has no room for the file"),
        "store_full": ErrorInfo(507, None, "the store of the sessions has no room left"),
        "no_memory": ErrorInfo(507, None, "sessions do not fit into memory beside the weights"),
        # The server's own failures.
        "audit_failed": ErrorInfo(
            500, None, "the audit log cannot be written: what it would record is not done"
        ),
        "engine_failed": ErrorInfo(
            500,
            1011,
            "the engine failed or hung, or is being started again: try again in a moment",
        ),
        "internal": ErrorInfo(500, 1011, "the server failed; its log says why"),
        "model_load_failed": ErrorInfo(
            500,
            None,
            "the model does not load; the message has the reason; 507 if that is memory",
        ),
        "overrun": ErrorInfo(500, 1011, "more audio waits for the engine than it may"),
        "runner_crashed": ErrorInfo(
            500, None, "the model's process ended; the next request gets a fresh one"
        ),
        "runner_hung": ErrorInfo(500, None, "the model's process made no progress"),
        "store_failed": ErrorInfo(500, 1013, "the store of the sessions failed; its log says why"),
        "store_read_only": ErrorInfo(500, None, "the store of the sessions cannot be written to"),
        "store_unusable": ErrorInfo(
            500, None, "the store of the sessions is damaged, or of a newer version"
        ),
        "vad_failed": ErrorInfo(500, 1011, "the voice detector failed"),
        # In Python and on the command line.
        "unreachable": ErrorInfo(None, None, "a client cannot reach the server (again)"),
        "ended": ErrorInfo(None, None, "a client's session was ended by the server"),
        "bad_config": ErrorInfo(None, None, "an option of a server that cannot be"),
        "bad_input": ErrorInfo(None, None, "a file to transcribe that is not there"),
        "ray_failed": ErrorInfo(None, None, "a cluster of Ray's that is not reached"),
        "bad_key": ErrorInfo(None, None, "a key, or a file of keys, that cannot be in force"),
        "cannot_listen": ErrorInfo(None, None, "the address or the port cannot be had"),
        "cannot_write": ErrorInfo(None, None, "a transcript cannot be written to its file"),
        "checkpoint_damaged": ErrorInfo(None, None, "a model's file is cut short or is another's"),
        "checkpoint_error": ErrorInfo(None, None, "a model's files cannot be used"),
        "checkpoint_incomplete": ErrorInfo(None, None, "files of a model are missing"),
        "checkpoint_not_downloaded": ErrorInfo(
            None, None, "a model's files are not on this machine and cannot be fetched now"
        ),
        "checkpoint_not_found": ErrorInfo(
            None, None, "no such folder, alias, repository or revision of a model"
        ),
        "closed": ErrorInfo(None, None, "the online processor is finished"),
        "not_live": ErrorInfo(None, None, "the model serves files only"),
        "tls_failed": ErrorInfo(None, None, "a certificate or its key cannot be used"),
        "unsupported_config": ErrorInfo(None, None, "a config that the model code does not know"),
        "weights_mismatch": ErrorInfo(None, None, "tensors that do not fit the model"),
        "wrong_tokenizer": ErrorInfo(None, None, "a tokenizer that does not fit the model"),
    }
)
