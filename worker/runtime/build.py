"""The flows, put together from the settings: lanes that converge, and the night."""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from worker.domain.rules import Mode
from worker.ledger import Ledger, WorkQueue
from worker.ledger.runs import Runs
from worker.moodle import MoodleReader, MoodleWriter
from worker.runtime.ledger import recorder
from worker.runtime.messages import latest_snapshot
from worker.runtime.platforms import require_tokens, transport
from worker.settings.platforms import Strangers
from worker.settings.root import Settings
from worker.sync.converge.backoff import Backoff
from worker.sync.converge.lane import Lane
from worker.sync.platform_run import ReconciledPlatform
from worker.sync.reconcile import Progress, Reconciliation

RUN_LEASE_SECONDS = 900.0
"""A reconciliation that doesn't renew its lease within this time is taken for dead; on the same host, at once."""
PROCESS_ID = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""This process. The random end tells it from its predecessor, whose host and pid are the same in a container."""


def lanes(settings: Settings, ledger: Ledger, stop: threading.Event, stack: ExitStack) -> Iterator[tuple[str, Lane]]:
    """Build the lanes of every platform that is not manual: one more than connections, one where nothing is written.

    While calls run, the spare lane prepares the next one: no connection waits for the ledger. Raises SettingsError for
    want of a token.
    """
    require_tokens(settings)
    nights = settings.reconcile.confirm_accounts_nights
    backoff = Backoff(first=settings.converge.park_seconds, most=settings.converge.park_most_seconds)
    for policy in settings.policy().platforms:
        platform = settings.platforms[policy.name]
        if policy.mode is Mode.MANUAL:
            continue
        connection = transport(policy.name, platform)
        stack.callback(connection.close)
        writes = policy.mode is Mode.AUTOMATIC
        writer = MoodleWriter(connection, policy.mode, instance=ledger.instance) if writes else None
        reader = writer or MoodleReader(connection)
        for number in range(platform.limits.connections + 1 if writes else 1):
            holder = f"{PROCESS_ID}:{policy.name}-{number}"
            # Renewed before each call, and longer than a call can last: no cohort is taken over during one.
            lease = 2 * platform.limits.timeout_seconds + 30
            queue = WorkQueue(ledger, policy.name, holder, lease=lease, guard=settings.guard(policy.name))
            yield (
                holder,
                Lane(policy, queue, reader, writer, backoff=backoff, confirm_nights=nights, stop=stop),
            )


def is_dead(holder: str) -> bool:
    """Whether a process of this host, as it is named in a lease, has ended; of other hosts we can't tell."""
    host, pid, mark = holder.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    if int(pid) == os.getpid():
        return mark != PROCESS_ID.rsplit(":", 1)[1]
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def reconciliation(
    settings: Settings,
    ledger: Ledger,
    stack: ExitStack,
    *,
    stop: threading.Event,
    with_snapshot: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Reconciliation:
    """Build a reconciliation of every platform that can be read. Raises SettingsError for want of a token."""
    require_tokens(settings)
    platforms = []
    for policy in settings.policy().platforms:
        platform = settings.platforms[policy.name]
        reader = None
        if platform.url is not None and platform.token is not None:
            connection = transport(policy.name, platform)
            stack.callback(connection.close)
            reader = MoodleReader(connection)
        platforms.append(
            ReconciledPlatform(
                policy=policy,
                guard=settings.guard(policy.name),
                reader=reader,
                remove_unmatched=platform.strangers is Strangers.REMOVE,
                confirm_nights=settings.reconcile.confirm_accounts_nights,
            )
        )
    writer = recorder(settings, ledger)
    return Reconciliation(
        ledger,
        writer,
        platforms,
        Runs(ledger, PROCESS_ID, lease=RUN_LEASE_SECONDS, is_dead=is_dead),
        latest=latest_snapshot(settings, writer.enrolled) if with_snapshot else None,
        wait_seconds=settings.reconcile.wait_minutes * 60,
        pause=stop.wait,
        progress=progress,
    )
