"""A directory's changes as messages: `telling` compares, purely; `Watch` looks, tells and remembers."""

from worker.sources.watch.poller import PollResult, Watch

__all__ = ["PollResult", "Watch"]
