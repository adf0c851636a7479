"""The fields of a form, typed. What cannot be understood is refused, never guessed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ...checkpoints.languages import UnknownLanguage, language_of
from ..errors import ApiError

_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_YES, _NO = ("true", "1"), ("false", "0", "")


@asynccontextmanager
async def received(
    request: Request, check: Callable[[str], Awaitable[None]], max_fields: int
) -> AsyncIterator[FormData]:
    """A request's form with at most one file.

    ``check`` is given the field "model" as soon as that is there, and may raise: most clients send
    their fields before the file, which then need not be received.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_fields=max_fields) as form:
            yield form
        return

    async def pieces() -> AsyncGenerator[bytes, None]:
        checked = False
        async for piece in request.stream():
            yield piece
            named = (value for name, value in parser.items if name == "model")
            if not checked and isinstance(model := next(named, None), str):
                checked = True
                await check(model)

    parser = MultiPartParser(request.headers, pieces(), max_files=1, max_fields=max_fields)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    try:
        yield form
    finally:
        await form.close()


class Fields:
    """Every reader takes a field's name and raises ApiError 400 that names it."""

    def __init__(self, form: FormData) -> None:
        self._form = form

    def upload(self, name: str) -> UploadFile:
        """A file, which must be there."""
        value = self._form.get(name)
        if not isinstance(value, UploadFile):
            raise ApiError(400, "missing_file", f'send the audio as the form field "{name}"', name)
        return value

    def text(self, name: str) -> str | None:
        """A text; None where there is none or an empty one, as clients send for "not set"."""
        value = self._form.get(name)
        if isinstance(value, UploadFile):
            raise ApiError(400, "bad_field", f"{name} must be a plain form field", name)
        return value or None

    def choice(self, name: str, known: Collection[str], default: str) -> str:
        """One of the known words, in any case."""
        value = (self.text(name) or default).strip().lower()
        if value not in known:
            message = f'{name} must be one of {", ".join(known)}, not "{value[:40]}"'
            raise ApiError(400, "unknown_value", message, name)
        return value

    def language(self, name: str, *, several: bool = False) -> str | None:
        """A language's code; None where the client leaves it open, or hints at ``several``."""
        try:
            if not several:
                return language_of(self.text(name))
            hinted = {language_of(said) for said in self.many(name)}
        except UnknownLanguage as error:
            raise ApiError(400, "bad_language", str(error), name) from error
        return hinted.pop() if len(hinted) == 1 else None

    def others(self, known: Collection[str]) -> list[str]:
        """The names of the fields that are none of these, whatever their brackets."""
        every = dict.fromkeys(plain(field) for field, _ in self._form.multi_items())
        return [name for name in every if name not in known]

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        value = (self.text(name) or "").lower()
        if value not in (*_YES, *_NO):
            raise ApiError(400, "bad_field", f"{name} must be true or false", name)
        return value in _YES

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within bounds."""
        value = self.text(name)
        try:
            number = None if value is None else float(value)
        except ValueError:
            number = float("nan")
        if number is not None and not low <= number <= high:
            raise ApiError(400, "bad_field", f"{name} must be from {low:g} to {high:g}", name)
        return number

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds."""
        number = self.number(name, low, high)
        if number is not None and number != int(number):
            raise ApiError(400, "bad_field", f"{name} must be a whole number", name)
        return None if number is None else int(number)

    def many(self, name: str) -> tuple[str, ...]:
        """A list: ``name``, ``name[]`` or ``name[0]``, each as often as there are values."""
        values = [value for field, value in self._form.multi_items() if plain(field) == name]
        if any(isinstance(value, UploadFile) for value in values):
            raise ApiError(400, "bad_field", f"{name} must be plain form fields", f"{name}[]")
        return tuple(str(value) for value in values if value)


def plain(field: str) -> str:
    """A field's name without the brackets of lists and objects: ``a[0]`` and ``a[b]`` are ``a``."""
    return _BRACKETS.sub("", field)
