"""One installation with servers of its own on one machine: what ``ops/up`` and ``ops/down`` do."""
