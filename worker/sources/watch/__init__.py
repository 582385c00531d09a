"""A directory's changes as messages: `telling` compares, purely; `Watch` looks, tells and remembers."""

from worker.sources.watch.poller import Look, Watch

__all__ = ["Look", "Watch"]
