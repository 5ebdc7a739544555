"""The control panel: authenticates, validates, admits, writes an operation down, and answers ``202``. It never touches a container.

    gunicorn 'hostler.web:create_app()'
"""

from __future__ import annotations

import gc

from apiflask import APIFlask

from hostler import log
from hostler.settings import ControlSettings
from hostler.web import api, front, openapi, passage, problems
from hostler.web.panel import Panel, attach
from hostler.web.strict import StrictJson

#: Bytes that a request without an archive may have.
BODY_LIMIT = 4 << 20


class PanelApp(APIFlask):
    """A Flask app without a folder of static files: every answer is made by a view."""

    json_provider_class = StrictJson

    @property
    def has_static_folder(self) -> bool:
        """None."""
        return False


def create_app(settings: ControlSettings | None = None) -> APIFlask:
    """The panel's WSGI application. Without ``settings`` it is a process's own: they come from the environment, and logging is set up.

    Nothing is opened here: gunicorn may load the app before it forks.
    """
    if settings is not None:
        return _made(settings)
    settings = ControlSettings()
    log.configure(settings, "panel")
    app = _made(settings)
    gc.collect()
    gc.freeze()  # what is loaded stays loaded: looking through it again and again costs requests 50 ms each time
    return app


def _made(settings: ControlSettings) -> APIFlask:
    app = PanelApp(__name__, title="Hostler", version="1", enable_openapi=True, spec_path=None, docs_path=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    attach(app.extensions, Panel(settings))
    openapi.configure(app)
    problems.register(app)
    passage.register(app)
    api.register(app)
    app.register_blueprint(front.bp)
    return app
