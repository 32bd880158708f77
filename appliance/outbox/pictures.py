"""The picture that a row names, read from the frames when it is its turn: what retention dropped meanwhile is gone."""

from __future__ import annotations

from contextlib import closing

import msgspec

from appliance.codecs import sniff
from appliance.errors import InputError
from appliance.frames import Location
from appliance.outbox.link import Row
from appliance.schema import open_reader
from appliance.store import Store


class Pictures:
    """bytes_max: of one picture that is sent."""

    def __init__(self, store: Store, bytes_max: int) -> None:
        self._store = store
        self._bytes_max = bytes_max

    def fetch(self, row: Row) -> Row | str:
        """The row with its picture, or why there is none."""
        with closing(open_reader(self._store.path)) as reader:
            place = reader.execute("SELECT segment, offset, length FROM results WHERE id = ?", (row.result,)).fetchone()
        if place is None or place[0] is None:
            return "the picture is no longer kept; lengthen store.images_days"
        if place[2] > self._bytes_max:
            return f"the picture has {place[2]} bytes, image_bytes_max is {self._bytes_max}"
        content = self._store.frames.read(Location(*place))
        if content is None:
            return "the picture is no longer kept; lengthen store.images_days"
        try:
            media = sniff(content)
        except InputError:
            return "the picture was erased"
        return msgspec.structs.replace(row, payload=content, media=media, size=len(content))
