"""The settings in force, one by one, for `cohorts config`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, SecretStr


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting in force: its dotted path, its value as JSON (secrets masked) and what it is."""

    path: str
    value: str
    description: str


def effective(settings: BaseModel) -> Iterator[Setting]:
    """Yield every setting in force, in the order of their declaration."""
    yield from _effective("", settings)


def _effective(prefix: str, section: BaseModel) -> Iterator[Setting]:
    for name, info in type(section).model_fields.items():
        path, value = f"{prefix}{name}", getattr(section, name)
        sections = _sections(path, value)
        if sections:
            for section_path, nested in sections.items():
                yield from _effective(f"{section_path}.", nested)
        else:
            shown = section.model_dump(mode="json", include={name})[name]
            if isinstance(value, SecretStr) and value.get_secret_value().startswith("sqlite:"):
                shown = value.get_secret_value()  # the path of a file
            text = json.dumps(sorted(shown) if isinstance(value, frozenset) else shown, ensure_ascii=False)
            yield Setting(path=path, value=text, description=" ".join((info.description or "").split()))


def _sections(path: str, value: object) -> dict[str, BaseModel]:
    """Return the sections that a value holds, by their path: itself, or those of a table or an array of tables."""
    items: Mapping[object, object]
    if isinstance(value, BaseModel):
        return {path: value}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, tuple):
        items = dict(enumerate(value))
    else:
        return {}
    sections = {f"{path}.{key}": item for key, item in items.items() if isinstance(item, BaseModel)}
    return sections if len(sections) == len(items) else {}
