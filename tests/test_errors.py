"""The one table of errors: whole, on every wire, and cheap to import."""

import ast
import gc
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxlive.cli import document
from voxlive.errors import (
    ERRORS,
    BadAudio,
    CheckpointNotFound,
    EngineFull,
    RequestRefused,
    VoxliveError,
    close_code,
    status_of,
)
from voxlive.vad.gate import GateOptionError
from voxlive.web.access.access import TooManyWrongKeys

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "voxlive"
# What else an error's code is handed to, as its first argument or, with the stream, the second.
CARRIERS = {
    "EndConnection",
    "Failed",
    "Refuse",
    "RefusalRule",
    "SessionError",
    "_condemn",
    "_fail",
    "_refusal",
    "refuse",
}
# Starlette's own refusals, which have their status as their code.
STARLETTE = {"not_found", "method_not_allowed"}


Trees = list[tuple[str, ast.Module]]


@pytest.fixture(scope="module")
def trees() -> Iterator[Trees]:
    """Every module of the package: a third of a million objects, none of which is garbage."""
    gc.disable()
    paths = PACKAGE.rglob("*.py")
    yield [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text())) for path in paths]
    gc.enable()


def error_classes(trees: Trees) -> dict[str, ast.ClassDef]:
    """Every class under VoxliveError, by name."""
    every = {n.name: n for _, tree in trees for n in tree.body if isinstance(n, ast.ClassDef)}
    found, more = {}, {"VoxliveError"}
    while more:
        found |= {name: every[name] for name in more}
        bases = {name: {ast.unparse(base) for base in node.bases} for name, node in every.items()}
        more = {name for name in every.keys() - found if bases[name] & found.keys()}
    return found


def takes_a_code(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether the class is made with the code first."""
    for node in classes[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return [one.arg for one in node.args.args[1:2]] == ["code"]
    return takes_a_code(ast.unparse(classes[name].bases[0]), classes)


def codes(node: ast.expr) -> set[str]:
    """The codes that an argument may be; none for one that is passed on."""
    match node:
        case ast.Constant(str(code)):
            return {code}
        case ast.IfExp(_, one, other):
            return codes(one) | codes(other)
    return set()


def raised(trees: Trees) -> set[str]:
    """Every code that is named anywhere in the package where an error is made."""
    classes, found = error_classes(trees), set()
    makers = {name for name in classes if takes_a_code(name, classes)} | CARRIERS
    fixed = {name: node for name, node in classes.items() if name not in makers}
    for node in fixed.values():
        for one in ast.walk(node):
            match one:
                case ast.Assign([ast.Name("code")], value):
                    found |= codes(value)
                case ast.Call(ast.Attribute(attr="__init__"), [first, _, *_]):
                    found |= codes(first)
    for _, tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                if name in makers:
                    named = (codes(one) for one in node.args[:2])
                    found |= next(filter(None, named), set())
    return found


def test_the_table_has_every_code_that_is_raised_and_no_other(trees):
    assert raised(trees) | STARLETTE == set(ERRORS)


def test_only_these_errors_have_another_status_than_their_code(trees):
    found = set()
    for name, tree in trees:
        for node in ast.walk(tree):
            named = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestRefused"
            if named and any(keyword.arg == "status" for keyword in node.keywords):
                found.add(name)
    assert found == {
        "runners/live.py",  # model_load_failed, with the status of the reason
        "web/errors.py",  # Starlette's own
        "web/rest/transcriptions.py",  # unsupported_option of ``stream``, 400
    }


@pytest.mark.parametrize(
    ("code", "status", "close"),
    [
        ("bad_audio", 400, 4400),
        ("bad_parameter", 400, 4400),
        ("bad_start", 400, 4400),
        ("unsupported_option", 422, 4400),
        ("too_big", 413, 1009),
        ("server_full", 503, 1013),
        ("slow_client", 408, 1008),
        ("shutting_down", 503, 1012),
        ("session_expired", 408, 1001),
        ("idle", 408, 1008),
        ("invalid_api_key", 401, 4401),
        ("forbidden", 403, 4403),
        ("rate_limit_exceeded", 429, 4429),
        ("too_many_sessions", 429, 4429),
        ("name_in_use", 409, 4409),
        ("engine_failed", 500, 1011),
        ("internal", 500, 1011),
        ("queue_full", 503, 1011),
        ("no such code", 500, 1011),
    ],
)
def test_a_code_decides_status_and_close(code, status, close):
    assert (status_of(code), close_code(code)) == (status, close)


@pytest.mark.parametrize(
    "error",
    [
        VoxliveError("timeout", "too slow", "file", 2.5),
        RequestRefused("model_load_failed", "no room", "model", status=507),
        EngineFull(4),
        BadAudio("no sound"),
        CheckpointNotFound("nothing there"),
        GateOptionError("threshold", 2, "from 0.01 to 0.99"),
        TooManyWrongKeys(3.0),
    ],
)
def test_an_error_crosses_processes_as_it_is(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert (str(again), again.status) == (error.message, error.status)


def test_the_docs_list_every_code():
    text = (ROOT / "docs" / "errors.md").read_text()
    assert text == document.update_tables(text), "python -m voxlive.cli.document docs/errors.md"
    assert all(f"| `{code}` |" in text for code in ERRORS)


def test_errors_load_nothing_else():
    shown = "import sys; import voxlive.errors; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", shown], check=True, capture_output=True, text=True, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert "voxlive.errors" in loaded
    heavy = ("av", "ctranslate2", "mlx", "numpy", "onnxruntime", "starlette", "uvicorn")
    assert not loaded & set(heavy)
    assert {name for name in loaded if name.startswith("voxlive")} == {"voxlive", "voxlive.errors"}
