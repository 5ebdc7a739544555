"""What ``ops/bench mobility`` moves about: a program with so much memory, and a client that sees how long it is away."""
