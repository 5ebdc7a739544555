"""Who asks, and what they may: bearer tokens, default-deny."""
