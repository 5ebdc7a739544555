"""What every driver promises, as tests: ``test_shared`` for all contracts, and a module for each. See :mod:`hostler.testing.plugin`."""
