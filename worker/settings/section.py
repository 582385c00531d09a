"""The base of every table of the settings."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Uai = Annotated[str, Field(pattern=r"^\d{7}[A-Z]$")]


class Section(BaseModel):
    """A table of the settings' file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
