"""Regeneration for one world: one draw a source and step."""


def regrow(units, sources, successes):
    """Units after a step; a success on a full cell, or off a source, is lost."""
    return [[max(u, int(s and r)) for u, s, r in zip(*rows, strict=True)]
            for rows in zip(units, sources, successes, strict=True)]  # fmt: skip
