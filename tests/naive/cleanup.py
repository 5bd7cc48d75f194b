"""Movement and beams of Cleanup for one world, from the rules, with dictionaries and passes."""

HEADINGS = [(-1, 0), (0, 1), (1, 0), (0, -1)]


def add(cell, step, times=1):
    return (cell[0] + times * step[0], cell[1] + times * step[1])


def turn(headings, actions):
    return [(h + {5: 1, 6: 3}.get(a, 0)) % 4 for h, a in zip(headings, actions, strict=True)]


def move(walls, cells, headings, actions, order):
    """Cells after the movement; ``order`` lists the movers at random. Phases A and B as written."""
    pos = list(cells)
    want = {}
    for i, action in enumerate(actions):
        if action <= 4:
            target = pos[i]
            if action < 4:
                target = add(pos[i], HEADINGS[(headings[i] + [3, 1, 0, 2][action]) % 4])
            want[i] = pos[i] if target in walls else target
    plan = dict(want)

    def at(cell):
        return max((i for i, p in enumerate(pos) if p == cell), default=None)

    for cell in sorted({c for c in want.values() if sum(w == c for w in want.values()) > 1}):
        contenders = [i for i in want if want[i] == cell]
        k = at(cell)
        closed = k is not None and any(
            i == k or k not in want or plan[k] == pos[k] or plan[k] == pos[i] for i in contenders
        )
        if not closed:
            pos[next(i for i in order if i in contenders)] = cell
        for i in contenders:
            plan[i] = pos[i]
    while plan:
        standing = {p: max(i for i, q in enumerate(pos) if q == p) for p in pos}
        removed = False
        for i in sorted(plan):
            if i not in plan:
                continue
            target = plan[i]
            if target not in pos:
                pos[i] = target
                del plan[i]
                removed = True
                continue
            k = standing.get(target)
            if k is None:
                continue  # someone has moved there within this pass
            if k == i or k not in plan or plan[k] == pos[k]:
                del plan[i]
                removed = True
            elif plan[k] == pos[i] and target == pos[k]:
                del plan[i], plan[k]
                removed = True
        if not removed:
            for i, target in plan.items():
                pos[i] = target
            break
    return pos


def beam(walls, waste, cells, heading, shooter, width, cleaning, shape):
    """Covered cells, cleaned cells and agents hit by one beam; ``waste`` is left as it is."""
    ahead, right = HEADINGS[heading], HEADINGS[(heading + 1) % 4]
    half = (width - 1) // 2
    starts = [add(cells[shooter], ahead)]
    if width > 1:
        starts += [add(cells[shooter], right, half), add(cells[shooter], right, -half)]
    covered, cleaned, hit = [], [], []
    for cell in starts:
        for _ in range(5):
            inside = 0 <= cell[0] < shape[0] and 0 <= cell[1] < shape[1]
            if not inside or cell in walls:
                break
            covered.append(cell)
            dirty = cleaning and cell in waste
            if dirty:
                cleaned.append(cell)
            here = [i for i, p in enumerate(cells) if p == cell]
            if here:
                hit.append(max(here))
                break
            if dirty:
                break
            cell = add(cell, ahead)
    return covered, cleaned, hit
