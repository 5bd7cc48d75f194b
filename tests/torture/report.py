"""Counts as tables."""

from collections import Counter

OUTCOMES = ("refused", "accepted", "crash", "hang", "wrong")
HEADS = ("what", "kind", "inputs", "refused clearly", "accepted, checked", "crashes", "hangs", "silently wrong")
BAD = ("crash", "hang", "wrong", "differing", "failures", "failed")


def table(counts):
    """Rows of the fuzzed inputs, by game and kind, with totals."""
    rows = {}
    for name, n in sorted(counts.items()):
        parts = name.split("/")
        if len(parts) == 3 and parts[2] in OUTCOMES:
            rows.setdefault(tuple(parts[:2]), Counter())[parts[2]] += n
    total = Counter()
    for row in rows.values():
        total.update(row)
    if rows:
        rows["all", ""] = total
    return [(*key, sum(row.values()), *(row[o] for o in OUTCOMES)) for key, row in rows.items()]


def others(counts):
    """Counts of kills and files, which have the part in their name."""
    return [(name, n) for name, n in sorted(counts.items()) if ": " in name]


def lines(counts, faults):
    """The tables for a terminal, then the inputs that were at fault."""
    rows = [HEADS, *(tuple(f"{c:,}" if isinstance(c, int) else c for c in row) for row in table(counts))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    out = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    out += ["", *(f"{name}: {n:,}" for name, n in others(counts))]
    for fault in faults[-20:]:
        last = fault["error"].strip().splitlines()[-1]
        out.append(f"FAULT {fault['what']}: {last} (repeat: ci/torture --again {fault['input']})")
    return out


def markdown(counts):
    """The tables for ``docs/reliability.md``."""
    rows = [
        HEADS,
        ["---"] * len(HEADS),
        *(tuple(f"{c:,}" if isinstance(c, int) else c for c in row) for row in table(counts)),
    ]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    if others(counts):
        text += "\n\n| kills and files | count |\n| --- | --- |\n"
        text += "\n".join(f"| {name} | {n:,} |" for name, n in others(counts))
    return text + "\n"


def failed(counts):
    """Whether anything went wrong."""
    return any(n for name, n in counts.items() if name.replace(": ", "/").split("/")[-1] in BAD)
