"""What a plugin must do: one abstract class a subsystem, with its capabilities.

The docstrings here are the rules for whoever implements a driver. A rule for all of them: every verb is
idempotent (done twice, the result is that of once), and a verb that fails leaves nothing behind that
:meth:`Driver.inventory` does not show.
"""
