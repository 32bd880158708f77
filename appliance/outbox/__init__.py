"""Store and forward: results, events and pictures for central wait in the table `outbox` until central has them."""
