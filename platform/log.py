"""Structured logs: one JSON object a line on standard error, with the ids that are bound to the work at hand."""

from __future__ import annotations

import logging
import sys

import structlog

from hostler.settings import PlatformSettings


def configure(settings: PlatformSettings, process: str) -> None:
    """Set up structlog, and route the standard library's logging through it. Called once per process."""
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer() if settings.log_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer])
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    for chatty in ("celery.worker.strategy", "celery.app.trace", "httpx"):  # two lines for each message; ours say more
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)
