"""The command `cohorts`, also as `python -m worker.cli`."""

import gc


def main() -> None:
    """Run a command. What is imported for it, the garbage collector must not walk: `lazy` turns it on again."""
    gc.disable()
    from worker.cli.main import main as command  # noqa: PLC0415 - idem

    command()


if __name__ == "__main__":
    main()
