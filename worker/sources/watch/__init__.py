"""A directory's changes as messages: `changes` compares, purely; `Watch` polls, publishes and remembers."""

from worker.sources.watch.poller import PollResult, Watch

__all__ = ["PollResult", "Watch"]
