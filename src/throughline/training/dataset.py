"""The tokenised dataset that AutoModel's data loader reads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from throughline.contracts.errors import DataError

IGNORE_INDEX = -100


class TokenisedDataset:
    """Rows of a Parquet file with `input_ids` and `labels`, as AutoModel's collater wants them.

    Args:
        path: Parquet file; `labels` has -100 wherever the loss must not look, aligned with `input_ids`.
        pad_token_id: Token that fills short rows of a batch.
        limit: Use the first rows only; 0 for all.

    Items are `{input_ids, labels, attention_mask}`, lists of equal length n - 1: AutoModel's loss does
    not shift, so `labels[i]` is the token after `input_ids[i]`.

    Raises:
        DataError: If the file is missing or has other columns.
    """

    def __init__(self, path: str, pad_token_id: int, limit: int = 0) -> None:
        import datasets

        if not Path(path).is_file():
            raise DataError("tokenised dataset is missing", where=path, fix="run `python -m recipes.data`")
        datasets.disable_progress_bars()
        # The cache must not lie in the artifact, which never changes.
        with tempfile.TemporaryDirectory() as cache:
            table = datasets.Dataset.from_parquet(path, cache_dir=cache, keep_in_memory=True)
        missing = {"input_ids", "labels"} - set(table.column_names)
        if missing:
            raise DataError(
                "tokenised dataset lacks columns", where=path, seen=sorted(missing), fix="run `python -m recipes.data`"
            )
        rows = table[:limit] if limit else table[:]
        self._rows = list(zip(rows["input_ids"], rows["labels"], strict=True))
        self._pad = {"input_ids": pad_token_id, "labels": IGNORE_INDEX, "attention_mask": 0}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, labels = self._rows[index]
        return {
            "input_ids": list(ids[:-1]),
            "labels": list(labels[1:]),
            "attention_mask": [1] * (len(ids) - 1),
            "___PAD_TOKEN_IDS___": dict(self._pad),
        }
