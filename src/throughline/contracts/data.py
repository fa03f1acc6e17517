"""What the data stage is asked to do."""

from __future__ import annotations

from pydantic import Field

from throughline.contracts.config import StrictModel

PII_KINDS = ("email", "phone", "ip", "credit_card", "iban", "api_key")


class LabShares(StrictModel):
    """How much of the lab's training records is of each kind, relative to the others.

    Attributes:
        triage: Tickets to open with a tool call.
        grounded: Questions on numbered passages.
        disallowed: Requests to refuse.
        benign: Their look-alikes to help with.
        chat: Everyday questions without a system message; each one once, so there are not more than the bank has.
    """

    triage: float = Field(default=0.3, ge=0)
    grounded: float = Field(default=0.21, ge=0)
    disallowed: float = Field(default=0.25, ge=0)
    benign: float = Field(default=0.24, ge=0)
    chat: float = Field(default=0.04, ge=0)


class DataSpec(StrictModel):
    """From raw records to a tokenised dataset.

    Attributes:
        source: `lab`, or a JSONL file, a folder of them, or several of either separated by commas.
        acceptance: Questions to score models with, in the same form as `source`: records whose last answer is the
            expected one, or questions with `expected`. The lab has its own; without any, a share of the records
            is held out.
        acceptance_share: That share of the records.
        train_records: Lines that the lab's generator writes.
        shares: What the lab's records are.
        default_task: Task of records that name none; empty means they are rejected.
        default_licence: Licence of records that name none; empty means they are rejected.
        exclude_licences: Records under these terms are left out.
        pii: Kinds of personal data that become placeholders.
        near_duplicate_jaccard: Jaccard similarity of word 3-grams from which records are duplicates; 1 for exact.
        validation_share: Share of groups held out for the validation loss.
        group_by: Fields that tie records together: no value of any of them is on both sides of a split, nor both in a
            record to train on and in a held-out question.
        question_group: Fields of a held-out question, the first that it has names its group: questions that are right
            or wrong together, so that an interval must not count each of them for itself.
        max_seq_len: Longer records are rejected, in tokens.
    """

    source: str = "lab"
    acceptance: str | None = None
    acceptance_share: float = Field(default=0.1, gt=0, lt=0.5)
    train_records: int = Field(default=2500, ge=100)
    shares: LabShares = LabShares()
    default_task: str = ""
    default_licence: str = ""
    exclude_licences: tuple[str, ...] = ()
    pii: tuple[str, ...] = PII_KINDS
    near_duplicate_jaccard: float = Field(default=0.8, gt=0, le=1)
    validation_share: float = Field(default=0.05, gt=0, lt=0.5)
    group_by: tuple[str, ...] = ("customer", "document")
    question_group: tuple[str, ...] = ("group", "document", "customer")
    max_seq_len: int = Field(default=1024, ge=16)
