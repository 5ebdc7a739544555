"""What a server does to checkpoint a container, bring one back, and move one to another server.

``standstill`` halts a container, ``revival`` brings one back held, ``checkpoints`` keeps them as files, ``source`` and ``target`` are the
two sides of a move. The verbs are in ``hostler.node.mobility_verbs``.
"""
