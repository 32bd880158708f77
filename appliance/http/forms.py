"""multipart/form-data for the wire doors: a whole body -> its text fields and its files."""

from __future__ import annotations

import msgspec
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from appliance.errors import DecodeError, FieldError

PARTS_MAX = 256

# Small clients leave the file name out; a type that is no text gives a file away all the same.
_FILE_TYPES = ("image/", "audio/", "application/octet-stream")


class FormFile(msgspec.Struct, frozen=True):
    """A file of a form: its name as given, its media type in lower case, both empty when they were left out."""

    name: str
    media_type: str
    content: bytes


class Form(msgspec.Struct, frozen=True):
    """Files in the order they came."""

    fields: dict[str, str]
    files: list[FormFile]


def parse_form(body: bytes, content_type: str) -> Form:
    """content_type: the whole header, since it names the boundary.

    Fields are UTF-8, whatever character set a part claims. Raises DecodeError for a form that is malformed or cut off,
    FieldError for a field that is given twice.
    """
    form = Form({}, [])
    try:
        boundary = parse_options_header(content_type)[1].get("boundary", "")
        with PushMultipartParser(boundary, max_segment_count=PARTS_MAX) as parser:
            segment: MultipartSegment = None
            content: list[bytes] = []
            for event in parser.parse(body):
                if event is None:
                    _add(form, segment, content[0] if len(content) == 1 else b"".join(content))
                elif isinstance(event, MultipartSegment):
                    segment, content = event, []
                else:
                    content.append(event)
    except MultipartError as error:
        raise DecodeError(f"the form cannot be read: {error}; send multipart/form-data with its boundary") from error
    return form


def _add(form: Form, segment: MultipartSegment, content: bytes) -> None:
    media_type = (segment.content_type or "").lower()
    if segment.filename or media_type.startswith(_FILE_TYPES):
        form.files.append(FormFile(segment.filename or "", media_type, content))
        return
    if segment.name in form.fields:
        raise FieldError(f"form field {segment.name[:40]!r} is given twice; give it once")
    try:
        form.fields[segment.name] = content.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"form field {segment.name[:40]!r} is not text in UTF-8; if it is a picture, send it as a file, with a name"
        ) from error
