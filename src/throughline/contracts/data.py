"""What the data stage is asked to do."""

from __future__ import annotations

from pydantic import Field

from throughline.contracts.config import StrictModel

PII_KINDS = ("email", "phone", "ip", "credit_card", "api_key")


class DataSpec(StrictModel):
    """From raw records to a tokenised dataset.

    Attributes:
        source: `lab`, or a JSONL file, a folder of them, or several of either separated by commas.
        acceptance: Questions to score models with, JSONL; the lab has its own.
        train_records: Lines that the lab's generator writes.
        acceptance_scale: Share of the lab's full acceptance and probe sets.
        default_task: Task of records that name none; empty means they are rejected.
        default_licence: Licence of records that name none; empty means they are rejected.
        exclude_licences: Records under these terms are left out.
        pii: Kinds of personal data that become placeholders.
        near_duplicate_jaccard: Jaccard similarity of word 3-grams from which records are duplicates; 1 for exact.
        validation_share: Share of groups held out for the validation loss.
        group_by: Fields that tie records together: no value of any of them is on both sides of the split.
        max_seq_len: Longer records are rejected, in tokens.
    """

    source: str = "lab"
    acceptance: str | None = None
    train_records: int = Field(default=9000, ge=100)
    acceptance_scale: float = Field(default=1.0, gt=0, le=1)
    default_task: str = ""
    default_licence: str = ""
    exclude_licences: tuple[str, ...] = ()
    pii: tuple[str, ...] = PII_KINDS
    near_duplicate_jaccard: float = Field(default=0.8, gt=0, le=1)
    validation_share: float = Field(default=0.05, gt=0, lt=0.5)
    group_by: tuple[str, ...] = ("customer", "document")
    max_seq_len: int = Field(default=512, ge=16)
