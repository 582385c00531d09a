"""The parts that all messages share: a CloudEvents 1.0 envelope, and the types of their values.

The envelope is closed. CloudEvents lets a producer add attributes; this contract refuses them, because a
name, a mail address, an INE or a birth date has no use here, and a topic is kept for months.

Every pattern means the same to Python, to Rust (pydantic) and to ECMA-262 (JSON Schema): explicit ranges,
never a class whose members differ.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

_CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_EDGE = _CONTROL + r"\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\ufeff"
_INVISIBLE = (
    r"\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
"""What is not seen, or turns what is seen around: Unicode's category Cf and what it says may be ignored."""
_ABOVE = "[\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
"""The same above U+FFFF, which a pattern can't name in a way that ECMA-262 reads as Rust does."""
_UNSEEN = re.compile(f"[{_INVISIBLE}]|{_ABOVE}")
_TEXT = Field(min_length=1, pattern=rf"^[^{_EDGE}]([^{_CONTROL}]*[^{_EDGE}])?$")
_CODE = Field(min_length=1, pattern=rf"^[^{_EDGE}{_INVISIBLE}]([^{_CONTROL}{_INVISIBLE}]*[^{_EDGE}{_INVISIBLE}])?$")


def _is_seen(code: str) -> str:
    if not code.isascii() and _UNSEEN.search(code):
        raise PydanticCustomError("invisible_character", "an invisible character within a code")
    return code


def visible(label: str) -> str:
    """Return a label without its invisible characters."""
    return label if label.isascii() else _UNSEEN.sub("", label)


def _visible(label: object) -> object:
    return visible(label) if isinstance(label, str) else label


_RFC3339 = r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$"

# Text has no control character and no space at either end. The number is the greatest length in characters.
Text128 = Annotated[str, _TEXT, Field(max_length=128)]
Text255 = Annotated[str, _TEXT, Field(max_length=255)]
# Codes moreover have no invisible character: two that look alike are alike. Of labels they are removed.
Code16 = Annotated[str, _CODE, Field(max_length=16), AfterValidator(_is_seen)]
Code32 = Annotated[str, _CODE, Field(max_length=32), AfterValidator(_is_seen)]
Code100 = Annotated[str, _CODE, Field(max_length=100), AfterValidator(_is_seen)]
Code128 = Annotated[str, _CODE, Field(max_length=128), AfterValidator(_is_seen)]
Label255 = Annotated[str, _TEXT, Field(max_length=255), BeforeValidator(_visible)]
UriReference = Annotated[str, Field(min_length=1, max_length=255, pattern="^[!-~]+$")]

# Left alone, pydantic also reads "1790000000" or a time with a space; the contract is RFC 3339 only.
Time = Annotated[
    datetime,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.json_or_python_schema(
            json_schema=core_schema.chain_schema(
                [
                    core_schema.str_schema(pattern=_RFC3339, max_length=40),
                    core_schema.datetime_schema(tz_constraint="aware"),
                ]
            ),
            python_schema=core_schema.datetime_schema(
                strict=True,
                tz_constraint="aware",
                ge=datetime(2000, 1, 1, tzinfo=UTC),
                lt=datetime(2100, 1, 1, tzinfo=UTC),
            ),
        )
    ),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _RFC3339, "maxLength": 40}),
]


class Contract(BaseModel):
    """A frozen value that refuses every field it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        defer_build=True,  # at the first message: most commands read none, and start sooner
    )


class Envelope(Contract):
    """A CloudEvents 1.0 envelope; each message adds its `type` and its `data`."""

    specversion: Literal["1.0"]
    """Version of CloudEvents, always 1.0."""
    id: Text128
    """Identifies this message; the same id again, from the same source, is the same message."""
    source: UriReference
    """Identifies the producer, as a URI reference, e.g. `/apogee/inscriptions`."""
    time: Time
    """When the fact became true at the source: RFC 3339 with an offset. Orders facts of different sources."""
    datacontenttype: Literal["application/json"] | None = None
    """Media type of `data`; always JSON."""
    dataschema: UriReference | None = None
    """URI of the schema that `data` follows."""
    subject: Text255 | None = None
    """What the message is about: the enrolment id, the student id or the étape, as codes."""
    traceparent: Annotated[str, Field(pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None = None
    """W3C Trace Context: the trace that this message continues."""
    tracestate: Annotated[str, Field(max_length=512, pattern="^[ -~]*$")] | None = None
    """W3C Trace Context: what each tracing system adds."""
    partitionkey: Text128 | None = None
    """The key of the Kafka message (CloudEvents extension for partitioning); see `message_key`."""


MOST_PROBLEMS = 20
_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")


def problems(error: ValidationError, *, depth: int = 1) -> tuple[tuple[str, str], ...]:
    """Return what is wrong in a message as (dotted field, type of error), without any value that it held.

    At most `MOST_PROBLEMS` of them. A field's name may come from the sender: it is cut to 40 characters, and
    becomes `?` when it does not look like a name (a number, an address). `value` is the message as a whole.
    `depth` is the number of parts of a location before the field: 1 in a message, whose model was chosen by its type.
    Types are those of https://docs.pydantic.dev/latest/errors/validation_errors/, and `same_student`,
    `nothing_described`, `not_one_of_both` and `invisible_character`.
    """
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple((_field(detail, depth), detail["type"]) for detail in details[:MOST_PROBLEMS])


def _field(detail: ErrorDetails, depth: int) -> str:
    if detail["type"].startswith("union_tag_"):
        return "type"
    return ".".join(_part(part) for part in detail["loc"][depth:]) or "value"


def _part(part: int | str) -> str:
    return str(part)[:40] if isinstance(part, int) or _SAFE_NAME.match(part) else "?"
