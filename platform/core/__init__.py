"""The domain: specs, limits, lifecycle, errors, units. No I/O happens in this package."""
