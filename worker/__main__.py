"""The command `cohorts`, also as `python -m worker`."""

import gc


def main() -> None:
    """Import the commands, then run one.

    Imports make hundreds of thousands of objects that stay: a garbage collector that walks them again and again takes
    a fifth of the start, and later of its time. So it rests meanwhile, and leaves them out from then on.
    """
    gc.disable()
    from worker.cli import main as command  # noqa: PLC0415 - what the collector must not walk

    gc.freeze()
    gc.enable()
    command()


if __name__ == "__main__":
    main()
