"""All faults, in the order in which they are tried."""

from tools.chaos import brokers, clocks, commands, ledgers, moodles, processes

FAULTS = (
    *processes.FAULTS,
    *brokers.FAULTS,
    *ledgers.FAULTS,
    *moodles.FAULTS,
    *clocks.FAULTS,
    *commands.FAULTS,
)
