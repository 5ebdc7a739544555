"""The Python client of the API: :class:`hostler.client.client.Client`. It knows the panel by HTTP alone."""
