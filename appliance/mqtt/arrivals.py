"""A message on one of its routes, until it is committed there."""

from __future__ import annotations

from appliance.config import RouteConfig
from appliance.errors import StoreError
from appliance.mqtt.message import Acknowledge, InboundMessage
from appliance.mqtt.receipts import MAYBE_DUPLICATE, Delivery, Receipts
from appliance.writes import Receipt, Written


class Arrival:
    """`settled` is to be called once, when it is committed. flags: of what is recorded for it."""

    __slots__ = ("_receipts", "_settle", "delivery", "flags", "message", "route", "source")

    def __init__(
        self,
        message: InboundMessage,
        route: RouteConfig,
        source: str,
        settle: Acknowledge,
        receipts: Receipts,
        delivery: Delivery | None,
        doubtful: bool,
    ) -> None:
        self.message = message
        self.route = route
        self.source = source
        keyed = route.key_field is not None or route.key_property is not None
        self.flags = (MAYBE_DUPLICATE,) if doubtful and not keyed else ()
        self.delivery = delivery
        self._receipts = receipts
        self._settle = settle

    @property
    def receipt(self) -> Receipt | None:
        return None if self.delivery is None else self.delivery.receipt

    @property
    def receipt_unless_keyed(self) -> Receipt | None:
        """What is recorded under the publisher's key needs no receipt on disk."""
        return self.receipt if self.route.key_field is None and self.route.key_property is None else None

    @property
    def must(self) -> bool:
        return self.message.qos > 0

    def settled(self) -> None:
        if self.delivery is not None:
            self._receipts.committed(self.delivery)
        self._settle()

    def done(self, outcome: Written | StoreError) -> None:
        """For the store: committed, or let go because nobody waits for it."""
        if isinstance(outcome, Written):
            self.settled()
