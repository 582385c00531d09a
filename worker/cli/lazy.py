"""Commands that are imported when they are called: to print help or the version, none of them is."""

import gc
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

Command = TyperCommand | TyperGroup
Families = Mapping[str, Mapping[str, str]]
"""By module: its commands, each with the first paragraph of its help. The module's `family` is a Typer with them."""

YOUNG = 50_000
"""New objects before the garbage collector runs, instead of 700."""


class Commands(Mapping[str, Command]):
    """The commands of all families by name; the module of one is imported when it is looked up."""

    def __init__(self, families: Families) -> None:
        self._modules = {name: module for module, commands in families.items() for name in commands}

    def __getitem__(self, name: str) -> Command:
        return load(self._modules[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class LazyGroup(TyperGroup):
    """A group of commands that lists them without importing them."""

    families: ClassVar[Families]

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - those of typer
        super().__init__(**attributes)
        self.commands = Commands(self.families)  # type: ignore[assignment] # typer only reads it

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # its own context is private
        """Return the names, in the order of the families."""
        del ctx
        return list(self.commands)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override] # noqa: ANN401 - idem
        """Write what each command does."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([line for commands in self.families.values() for line in commands.items()])


def load(module: str) -> dict[str, Command]:
    """Import a family and return its commands by name.

    A process that began without the garbage collector has it from here on.
    """
    app = typer.Typer(rich_markup_mode=None)
    app.add_typer(import_module(module).family)
    if not gc.isenabled():
        settle()
    commands: dict[str, Any] = dict(typer.main.get_group(app).commands)
    for command in commands.values():
        for child in getattr(command, "commands", {}).values():
            child.short_help = summary(child.help)  # else typer cuts it at the end of the line
    return commands


def summary(text: str | None) -> str:
    """Return the first paragraph of a help text, as one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def settle() -> None:
    """Make the garbage collector skip the objects of imports, and collect new ones less often.

    Imports make hundreds of thousands of objects that stay: walking them again and again takes a fifth of the start. A
    batch makes thousands of objects, which end with it, and hardly any cycle: looking for cycles takes up to a tenth of
    a night.
    """
    gc.freeze()
    gc.set_threshold(YOUNG)
    gc.enable()
