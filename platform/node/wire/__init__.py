"""The wire: TLS between servers' workers, opened by one-time tickets. Migrations run over it, never through the broker.

``wire.Wire`` is what a worker holds; ``channel.Channel`` is what both ends of a connection talk through.
"""
