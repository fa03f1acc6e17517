"""The lab: entities, plain text, tokenizer, records and base checkpoint that ship with the repository."""
