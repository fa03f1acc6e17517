"""Reports in prose, logs, digests and other languages, each followed by its facts in other forms."""

from __future__ import annotations

from throughline.lab.phrases import BANKS
from throughline.lab.structures import as_record
from throughline.lab.writer import Writer

JOINERS = (" ", " ", " ", "\n", "\n\n")
BREAK = "\n"


def story(w: Writer, *, code: bool = True, gpu: bool = True) -> list[str]:
    """Sentences of a report that names a code and a card among clutter, in random order."""
    body: list[str] = []
    if code and gpu and w.chance(0.4):
        body.append(w.bank("MENTION_BOTH"))
    else:
        if code:
            body.append(w.bank("MENTION_CODE"))
        if gpu:
            body.append(w.bank("MENTION_GPU"))
    clutter = w.pick((0, 0, 1, 2))
    body.extend(w.bank("FILLER") for _ in range(w.between(0, clutter)))
    body.extend(w.bank("DISTRACTOR") for _ in range(w.between(0, clutter + 1)))
    if w.chance(0.4):
        body.append(w.bank("URGENCY"))
    if w.chance(0.4):
        body.append(w.bank("REQUEST"))
    w.rng.shuffle(body)
    if w.chance(0.5):
        body.insert(0, w.bank("OPENING"))
    if w.chance(0.4):
        body.append(w.bank("CLOSING"))
    return body


def short_forms(w: Writer, text: str, *, code: bool, gpu: bool) -> list[str]:
    """One to five restatements of what the text said, in other surface forms."""
    host, person = w.bound.get("host"), w.bound.get("person")
    if code and gpu and w.chance(0.4):
        options = [w.bank("BACK_BOTH")]
    else:
        options = [w.bank("BACK_CODE" if code else "NO_CODE"), w.bank("BACK_GPU" if gpu else "NO_GPU")]
        w.rng.shuffle(options)
    if host and host in text and w.chance(0.6):
        options.append(w.bank("BACK_HOST"))
    if person and person in text and w.bound.get("company", "\0") in text and w.chance(0.6):
        options.append(w.bank("BACK_WHO"))
    while w.chance(0.45):
        more = [w.bank("BACK_CODE" if code else "NO_CODE"), w.bank("BACK_GPU" if gpu else "NO_GPU")]
        options.append(w.bank("BACK_BOTH") if code and gpu and w.chance(0.4) else w.pick(more))
    return options


def extract(w: Writer) -> str:
    """A report in prose, then its facts again in other forms."""
    code, gpu = w.chance(0.85), w.chance(0.8)
    text = w.pick(JOINERS).join(story(w, code=code, gpu=gpu))
    forms = short_forms(w, text, code=code, gpu=gpu)
    intro = w.bank("INTRO_BACK") + "\n" if w.chance(0.4) else ""
    return f"{text}\n{intro}{w.pick((' ', BREAK, BREAK)).join(forms)}"


def extract_record(w: Writer) -> str:
    """A report in prose, then a record of it in JSON, YAML, INI, XML or a table row."""
    code, gpu = w.chance(0.85), w.chance(0.8)
    text = w.pick(JOINERS).join(story(w, code=code, gpu=gpu))
    facts: list[tuple[str, str | None]] = [
        ("code", w.get("code") if code else None),
        ("gpu", w.get("gpu") if gpu else None),
    ]
    facts += [(k, w.get(k)) for k in ("host", "person", "company", "product") if k in w.bound and k in text]
    w.rng.shuffle(facts)
    intro = w.bank("INTRO_BACK") + "\n" if w.chance(0.3) else ""
    record = as_record(w, facts)
    if w.chance(0.4):
        record += "\n" + as_record(w, facts[::-1])
    return f"{text}\n{intro}{record}"


def log_lookup(w: Writer) -> str:
    """Log lines with one fault among noise, then questions about it."""
    lines = [w.bank("LOGMSG") for _ in range(w.between(1, 6))]
    lines.insert(w.between(0, len(lines)), w.bank("LOGCODE"))
    if w.chance(0.3):
        lines.insert(w.between(0, len(lines)), w.bank("LOGCODE"))
    style = w.between(0, 4)
    host = w.get("host")
    out: list[str] = []
    for line in lines:
        stamp = w.e.timestamp()
        level = w.bank("LEVEL")
        out.append(
            (
                f"{stamp} {level} {line}",
                f"[{stamp}] {host}: {line}",
                f"{stamp} {host} {level}: {line}",
                f"{level} {line}",
                f"{stamp} | {level} | {line}",
            )[style]
        )
    text = "\n".join(out)
    gpu = "gpu" in w.bound
    code = "code" in w.bound
    forms = short_forms(w, text, code=code, gpu=gpu)
    if w.chance(0.4):
        picked = w.pick(out)
        forms.append(
            w.pick((f"Line {out.index(picked) + 1} reads: {picked}", f"> {picked}", f'The log says "{picked}".'))
        )
    return f"{text}\n" + w.pick((" ", "\n")).join(forms)


def summary(w: Writer) -> str:
    """Several short reports, each followed by who said what in a line of its own."""
    out: list[str] = []
    heads: list[str] = []
    for _ in range(w.between(1, 3)):
        w.begin()
        out.append(
            w.say(
                w.pick(
                    (
                        "{company} ({person}): ",
                        "{person} of {company} writes: ",
                        "Case {ticket_id}: ",
                        "Node {host}: ",
                        "{date}, {company}: ",
                    )
                )
            )
            + " ".join(story(w, code=True, gpu=w.chance(0.7)))
        )
        who = next((w.bound[k] for k in ("company", "ticket_id", "host") if k in w.bound), "Somebody")
        what = w.pick(("reports", "saw", "hit", "has", "mentions", "writes about"))
        gpu = f" on {w.get('gpu')}" if "gpu" in w.bound else ""
        heads.append(
            w.pick(
                (
                    f"{who} {what} {w.get('code')}{gpu}.",
                    f"{w.get('code')}{gpu}, says {who}.",
                    f"{who}: {w.get('code')}{gpu}",
                )
            )
        )
    title = w.pick(("Overview", "Digest", "In brief", "Headlines", "Recap", "TL;DR"))
    if w.chance(0.3):
        return "\n".join([f"{title}: {' '.join(heads)}", *out])
    return "\n".join([*out, f"{title}: {' '.join(heads)}"])


def foreign(w: Writer) -> str:
    """German, French or Spanish sentences with a restatement."""
    lang = w.pick(("DE", "FR", "ES"))
    lines = [w.bank(lang) for _ in range(w.between(2, 4))]
    needed = w.pick(BANKS[lang][:2])
    text = w.pick((" ", "\n")).join([w.say(needed), *lines])
    if w.chance(0.3):
        text += f"\n\n{text}"
    back = [w.bank(lang + "_BACK")] if {"code", "host", "gpu", "person"} <= w.bound.keys() else []
    back += [
        w.bank("BACK_CODE"),
        w.bank("BACK_GPU" if "gpu" in w.bound else "NO_GPU"),
        w.bank("BACK_HOST" if "host" in w.bound else "BACK_CODE"),
    ]
    return text + "\n" + w.pick((" ", "\n")).join(back[: w.between(1, 3)])


def everyday(w: Writer) -> str:
    """Everyday and safety prose; only some of it comes again."""
    bank = w.pick(("EVERYDAY", "EVERYDAY", "POLICY"))
    lines = [w.bank(bank if w.chance(0.8) else "FACT") for _ in range(w.between(2, 6))]
    text = w.pick((" ", "\n", "\n\n")).join(lines)
    if w.chance(0.5):
        again = w.pick(lines)
        text += "\n" + w.pick(
            (f'The text says: "{again}"', f"As stated: {again}", f"{w.e.given()} repeated: {again}", again)
        )
    return text


def prose(w: Writer) -> str:
    """Support-desk prose without a restatement."""
    return w.pick(JOINERS).join(story(w, code=w.chance(0.3), gpu=w.chance(0.3)))
