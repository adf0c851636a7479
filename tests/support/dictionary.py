"""PocketSphinx with a dictionary of the clips' words alone: it starts in a third of the time.

Most of a worker's start is its dictionary of 134,000 words, and much of its search. Who tests what
the built-in engine makes of speech has all of it; nearly every other test has this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pocketsphinx import get_model_path
from support.clips import clip, names

_WHOLE = Path(get_model_path())
_LANGUAGE = "en-us"
_DICTIONARY = "cmudict-en-us.dict"


@cache
def _of_the_clips() -> str:
    """The lines of the dictionary for words of the clips; a word may have several."""
    words = {word for name in names() for word in re.findall("[a-z']+", clip(name).text.lower())}
    lines = (_WHOLE / _LANGUAGE / _DICTIONARY).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if re.split(r"[\s(]", line, maxsplit=1)[0] in words)


@contextmanager
def clips_dictionary() -> Iterator[dict[str, str]]:
    """The environment in which PocketSphinx knows the clips' words."""
    with TemporaryDirectory() as path:
        folder = Path(path) / _LANGUAGE
        folder.mkdir()
        for whole in (_WHOLE / _LANGUAGE).iterdir():
            if whole.name != _DICTIONARY:
                (folder / whole.name).symlink_to(whole)
        (folder / _DICTIONARY).write_text(_of_the_clips())
        yield {"POCKETSPHINX_PATH": path}
