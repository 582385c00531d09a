"""The command `cohorts`, also as `python -m worker.cli`."""

import gc

YOUNG = 50_000
"""Objects that are made before the garbage collector looks at them, instead of 700."""


def main() -> None:
    """Import the commands, then run one."""
    gc.disable()
    from worker.cli.main import main as command  # noqa: PLC0415 - what the collector must not walk

    settle()
    command()


def settle() -> None:
    """Have the garbage collector leave out what imports have made, and look at what comes later less often.

    Imports make hundreds of thousands of objects that stay: to walk them again and again takes a fifth of the start,
    and later of its time. A batch makes thousands of objects, which end with it, and hardly a cycle among them: to look
    for one takes up to a tenth of a night.
    """
    gc.freeze()
    gc.set_threshold(YOUNG)
    gc.enable()


if __name__ == "__main__":
    main()
