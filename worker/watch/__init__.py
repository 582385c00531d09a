"""A directory's changes as messages: `telling` compares, purely; `Watch` looks, tells and remembers."""

from worker.watch.looking import Look, Watch

__all__ = ["Look", "Watch"]
