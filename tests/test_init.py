"""What ``import voxlive`` offers: loaded when it is used, and typed all the same."""

import ast
import asyncio
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.clips import clip

import voxlive

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".mypy_cache" / "user"
HEAVY = ("starlette", "uvicorn", "mlx", "onnxruntime", "ctranslate2", "av")
LIGHT = {
    "voxlive": (),
    "voxlive.cli.main": (),
    "voxlive.errors": (),
    "voxlive.engines.remote.child": (),
    "voxlive.runners.child": (),
}
"""Modules, and what of ``HEAVY`` each needs."""

PROGRAM = """
import numpy as np
import voxlive

engine = voxlive.load_engine("whisper-tiny.en", voxlive.EngineOptions(max_sessions=1))
processor = voxlive.OnlineProcessor(engine)
reveal_type(voxlive.transcribe("speech.wav", model=engine).text)
reveal_type(voxlive.transcribe(np.zeros(16_000, np.float32), language="en").segments)
reveal_type(processor.process_iter()[0])
reveal_type(voxlive.Words(0, ()).words)
reveal_type(voxlive.__version__)
"""
REVEALED = ("str", "tuple[Segment, ...]", "list[Token]", "tuple[Word, ...]", "str")


def loaded_by(statement: str) -> list[str]:
    """Which of the heavy modules a program has that begins so."""
    probe = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(("module", "needed"), LIGHT.items())
def test_a_module_loads_nothing_that_it_does_not_use(module, needed) -> None:
    assert loaded_by(f"import {module}") == list(needed)


def test_transcribing_loads_no_server() -> None:
    assert not {"starlette", "uvicorn", "mlx", "ctranslate2"} & {
        *loaded_by("import voxlive; voxlive.transcribe, voxlive.OnlineProcessor")
    }


def test_every_public_name_is_there() -> None:
    assert set(voxlive.__all__) <= set(dir(voxlive))
    for name in voxlive.__all__:
        assert getattr(voxlive, name) is not None
    assert {*voxlive._PUBLIC, "__version__"} == set(voxlive.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        voxlive.nothing  # noqa: B018 - what it does is the test


@pytest.mark.endurance
def test_a_users_mypy_sees_the_types(tmp_path) -> None:
    """By a mypy of the user's own; `make check` has these types from `support/typed_program.py`."""
    # In the same place each time: what mypy has kept of it names that.
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "of_a_user.py"
    program.write_text(PROGRAM + "voxlive.nothing\n")
    # As for an installed package: what it is made of is followed and not judged.
    settings = tmp_path / "mypy.ini"
    settings.write_text(f"[mypy]\nstrict = true\ncache_dir = {CACHE}\n")
    options = ["--show-absolute-path", "--config-file", str(settings)]
    command = [sys.executable, "-m", "mypy", *options, str(program)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=170
    )
    notes = [line for line in done.stdout.splitlines() if line.startswith(str(program))]
    revealed = [line.partition("Revealed type is ")[2] for line in notes if "Revealed" in line]
    for line, expected in zip(revealed, REVEALED, strict=True):
        assert _short(line) == expected
    [error] = [line for line in notes if " error: " in line]
    assert '"nothing"' in error


def _short(revealed: str) -> str:
    """A type as mypy prints it, without the modules of its names."""
    words = revealed.strip('"').replace("[", " [ ").replace("]", " ] ").replace(",", " , ").split()
    named = (word if word == "..." else word.rpartition(".")[2] for word in words)
    return "".join(named).replace(",", ", ")


def test_nothing_is_imported_through_the_links_at_the_root() -> None:
    """``streaming``, ``web`` and others are links for readers: one module, one name."""
    package = ROOT / "voxlive"
    inside = {path.stem for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    folders = [ROOT / name for name in ("voxlive", "tests", "benchmarks", "training")]
    # Few files have a line that looks like it, and parsing all of them takes long.
    alike = re.compile(rf"^\s*(?:from|import)\b(?:.*,)?\s*(?:{'|'.join(inside)})\b", re.MULTILINE)
    assert alike.search("    import json, web")
    bare = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if "node_modules" not in path.parts and alike.search(path.read_text("utf-8"))
        for name in imported(path)
        if name.partition(".")[0] in inside
    ]
    assert bare == []


def imported(path: Path) -> list[str]:
    """The names that a file imports absolutely."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return names


@pytest.fixture(scope="module")
def engine():
    engine = voxlive.load_engine(options=voxlive.EngineOptions(max_sessions=1))
    yield engine
    engine.shutdown()


def test_a_file_and_its_samples_give_the_same_text(engine) -> None:
    doctor = clip("doctor")
    file = voxlive.transcribe(str(doctor.path), engine, language="English")
    assert "doctor" in file.text
    assert file.duration == pytest.approx(doctor.duration, abs=0.1)
    assert voxlive.transcribe(doctor.samples, model=engine).text == file.text
    assert engine.in_use == 0


def test_transcribe_loads_a_model_by_its_name(same_priority) -> None:
    said = voxlive.transcribe(clip("yes").path, model="whisper-tiny.en", words=True)
    assert (said.text, [word.text for word in said.segments[0].words]) == ("Yes.", ["Yes."])


async def test_transcribe_works_inside_a_running_event_loop(engine) -> None:
    await asyncio.sleep(0)
    assert voxlive.transcribe(clip("yes").path, engine).text.strip() == "Yes."


def test_transcribe_refuses_what_it_cannot_read(engine, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        voxlive.transcribe(tmp_path / "none.wav", engine)
    with pytest.raises(ValueError, match="float32"):
        voxlive.transcribe(np.zeros(10, np.int16), engine)
    with pytest.raises(voxlive.VoxliveError, match="xx"):
        voxlive.transcribe(clip("yes").path, engine, language="xx")
    (tmp_path / "bad.wav").write_bytes(b"nothing of the kind")
    with pytest.raises(voxlive.VoxliveError, match="audio"):
        voxlive.transcribe(tmp_path / "bad.wav", engine)
