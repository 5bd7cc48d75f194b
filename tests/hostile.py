"""Hostile and natural odd inputs for every game, and what must become of each: refused clearly, or right.

A try makes one input from a random generator, hands it in, and returns ``"refused"`` or ``"accepted"``. It raises
:class:`Wrong` where the refusal is a riddle or changed something, or where what was accepted differs from a reference.
New games are found by :func:`fastenvs.games`; what is tried follows from their dataclass of options.
"""

import copy
import dataclasses
import pickle
import typing
from fractions import Fraction

import numpy as np

import fastenvs
from fastenvs.checks import hints_of
from fastenvs.vecenv import iter_leaves

# Options under which each game draws random numbers and ends episodes soon.
OPTIONS = {
    "escape_room": {"n_agents": 4, "min_at_lever": 2, "randomize": True, "max_steps": 3},
    "cleanup": {"map": "@@@@@@@;@PPHPB@;@PBRPB@;@PPHPB@;@@@@@@@", "n_agents": 4, "actions": "all", "steps": 5,
                "shuffle_spawn": True, "random_orientation": True, "depletion": 0.9},
    "gtb": {"map": "W S@  ;  WS W;S  W  ", "fixed_four": False, "gather_skill": "pareto", "regen_prob": 0.3,
            "steps": 7, "tax_period": 3, "tax_mode": "us_federal", "order_life": 2, "view_radius": 2},
    "one_step_economy": {"draw_skills": True, "announce": True, "labor_levels": 12, "tax_mode": "us_federal"},
}  # fmt: skip
REFUSALS = (ValueError, TypeError, RuntimeError)
RIDDLES = (
    "truth value", "has no len", "not subscriptable", "unsupported operand", "unhashable", "not iterable",
    "setting an array element", "could not broadcast", "not supported between", "has no attribute",
    "unexpected keyword", "positional argument", "convertible", "out of range for", "buffer dtype",
    "too large to", "invalid literal",
)  # fmt: skip


class Wrong(AssertionError):
    """An input that was neither refused clearly nor right."""


def base(game):
    """Options of a game under which much happens in few steps."""
    return dict(OPTIONS.get(game, {}))


def make(game, n=3, **options):
    return fastenvs.make(game, n, **{"seed": 5, "num_threads": 1, **base(game), **options})


def same(left, right, what):
    """Refuse to go on where two trees of arrays differ."""
    a, b = dict(iter_leaves(left)), dict(iter_leaves(right))
    if a.keys() != b.keys():
        raise Wrong(f"{what}: {sorted(a.keys() ^ b.keys())}")
    for name, array in a.items():
        if array.dtype != b[name].dtype or not np.array_equal(array, b[name], equal_nan=array.dtype.kind == "f"):
            raise Wrong(f"{what}: {name} differs")


def clear(error, names):
    """Refuse a riddle: a message that names nothing of what was handed in."""
    text = str(error)
    if any(riddle in text.split(" (")[0] for riddle in RIDDLES) or not any(name in text for name in names):
        raise Wrong(f"a riddle: {type(error).__name__}: {text}") from error


def actions_of(env, rng):
    return rng.integers(0, env.n_actions, (env.num_envs, env.n_agents))


def step_tree(result):
    obs, rewards, terminated, truncated, info = result
    return {"obs": obs, "rewards": rewards, "terminated": terminated, "truncated": truncated, "info": info}


def go_on_elsewhere(env, actions, queue):
    """Play on in another process, which finds this module by its name."""
    queue.put([{name: array.copy() for name, array in iter_leaves(step_tree(env.step(a)))} for a in actions])


def in_space(env, obs):
    if not env.observation_space.contains(obs):
        raise Wrong("an observation outside its space")


def attempt(env, call, names):
    """Hand something to an environment; a refusal must be clear and change nothing."""
    before = env.snapshot()
    try:
        result = call()
    except REFUSALS as error:
        clear(error, names)
        same(before, env.snapshot(), "a refused call changed the environment")
        return "refused", None
    return "accepted", result


# ---------------------------------------------------------------------- values


def odd_value(rng):
    """A value that hardly any option takes."""
    pool = [
        None, "", "x", "no", b"abc", True, False, -1, 0, 1, 2, 3, 7, 255, 256, 2**31, 2**40, 2**63, 10**30, -(10**30),
        0.0, 0.5, 1.0, 1.5, -0.5, 1e300, 1e-300, -0.0, float("nan"), float("inf"), 1 + 2j, [], [1], [0.5, 0.5], (1, 2),
        (1, 2, 3), {}, {"a": 1}, {1}, object(), int, np.float64(0.25), np.uint8(200), np.int16(-3), np.bool_(True),
        np.array(3), np.array([3, 3]), np.array([0.3] * 7), np.array([[1]]), np.array("x"), np.array([None]),
        np.datetime64("2020-01-01"), Fraction(1, 3), range(2), np.float32("nan"), "W", "a;b", "\n", "\x00",
        np.array(True), np.array(0.5), np.array([1, 2], ">i4"), np.ma.masked_array([1, 2], [0, 1]), "é" * 300, "/",
        "/dev/zero", "..",
    ]  # fmt: skip
    return pool[rng.integers(len(pool))]


def small_value(hint, rng):
    """A value of the declared type that may well be in range."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return args[rng.integers(len(args))]
    if origin is tuple:
        n = int(rng.integers(1, 9)) if args[-1] is Ellipsis else len(args)
        return tuple(small_value(args[0], rng) for _ in range(n))
    if args:
        return small_value(args[rng.integers(len(args))], rng)
    if hint is bool:
        return bool(rng.integers(2))
    if hint is int:
        return int(rng.choice([0, 1, 2, 3, 4, 5, 6, 9, 12, 60, 200]))
    if hint is float:
        return float(rng.choice([0, 0.25, 0.5, 1, 2, 10, 0.1, 1e-3, 1e6]))
    return None if hint is type(None) else str(rng.choice(["W S ; S W;    ;WSWS", "@@@@@;@PHB@;@ PB@;@@@@@", "none"]))


def disguised(value, rng):
    """The same value in another type that is as good."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        kinds = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint64, np.int64]
        kinds = [k for k in kinds if np.iinfo(k).min <= value <= np.iinfo(k).max] or [int]
        new = kinds[rng.integers(len(kinds))](value)
        return np.array(new) if rng.random() < 0.3 else new
    if isinstance(value, float):
        choices = [np.float64(value), np.array(value)]
        choices += [int(value)] * value.is_integer() + [np.float32(value)] * (float(np.float32(value)) == value)
        return choices[rng.integers(len(choices))]
    if isinstance(value, tuple):
        ragged = len({np.shape(entry) for entry in value}) > 1
        return list(value) if rng.random() < 0.5 or ragged else np.array(value)
    return np.str_(value) if isinstance(value, str) else value


def odd_layout(array, rng):
    """The same numbers in another layout, byte order or dtype."""
    kinds = ["list", "fortran", "strided", "swapped", "negative", "unaligned", "readonly", "same"]
    kind = kinds[rng.integers(len(kinds))]
    if kind == "list":
        return array.tolist()
    if kind == "fortran":
        return np.asfortranarray(array)
    if kind == "strided":
        wide = np.zeros((*array.shape, 3), array.dtype)
        wide[..., 1] = array
        return wide[..., 1]
    if kind == "swapped":
        return array.astype(array.dtype.newbyteorder())
    if kind == "negative":
        return array[::-1].copy()[::-1]
    if kind == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)
        out = raw[1:].view(array.dtype).reshape(array.shape)
        out[...] = array
        return out
    out = array.copy()
    out.flags.writeable = kind != "readonly"
    return out


def spoiled(array, rng):
    """Numbers with something wrong: type, shape, or a value."""
    array = np.asarray(array)
    choice = rng.integers(12)
    if choice < 4:
        return array.astype([np.complex128, object, "U8", np.float16][choice]) + (
            1j if choice == 0 else 0 if choice != 2 else ""
        )
    if choice == 4:
        return array[:-1]
    if choice == 5:
        return array[..., None]
    if choice == 6:
        return odd_value(rng)
    if choice == 7:
        return np.ma.masked_array(array, np.ones(array.shape, bool))
    out = array.astype(np.float64 if array.dtype.kind == "f" or choice > 9 else np.int64)
    if out.size:
        values = (
            [np.nan, np.inf, -1, 1e9, 0.5, -1e-9] if out.dtype.kind == "f" else [-1, 2**40, 77, -(2**63), 2**31, 300]
        )
        out.reshape(-1)[rng.integers(out.size)] = values[rng.integers(6)]
    return out.astype(np.uint64) if choice == 8 and (out >= 0).all() else out


# ---------------------------------------------------------------------- tries


def try_constructor(game, rng):
    """Options replaced by disguises of theirs, by small values or by odd ones."""
    probe = _probe(game)
    hints, options = hints_of(type(probe.options)), base(game)
    names = [*hints, "num_envs", "num_threads", "copy", "autoreset", "seed"]
    plain = {f.name: getattr(probe.options, f.name) for f in dataclasses.fields(probe.options)}
    plain |= {"num_envs": 3, "num_threads": 1, "copy": False, "autoreset": "same_step", "seed": 7}
    for name in rng.choice(names, rng.integers(1, 4), replace=False):
        how = rng.random()
        value = small_value(hints[name], rng) if name in hints and how < 0.6 else plain[name]
        options[str(name)] = odd_value(rng) if how < 0.3 else disguised(value, rng)
    n = options.pop("num_envs", 3)
    try:
        env = fastenvs.make(game, n, **options)
    except REFUSALS as error:
        clear(error, [*names, "agents", "brackets", "rates", "orders", "memory", "symbol", "beam", "streams"])
        return "refused"
    if env.num_envs > 64:
        return "accepted"
    for name, value in dataclasses.asdict(env.options).items():
        if type(value) not in (int, float, bool, str, tuple, type(None)):
            raise Wrong(f"option {name} is still {value!r}")
    seed = options.get("seed")
    _play_beside_a_twin(game, env, 3 if seed is None else seed, rng)
    return "accepted"


def _play_beside_a_twin(game, env, seed, rng):
    """An environment made of normalised options plays the same."""
    twin = fastenvs.make(
        game, int(env.num_envs), autoreset=env.autoreset, copy=env.copy, **dataclasses.asdict(env.options)
    )
    same({"obs": env.reset(seed=seed)[0]}, {"obs": twin.reset(seed=seed)[0]}, "reset of a twin")
    for _ in range(2):
        actions = actions_of(env, rng)
        left, right = env.step(actions), twin.step(actions)
        same(step_tree(left), step_tree(right), "step of a twin")
    in_space(env, left[0])
    twin.restore(env.snapshot())


_PROBES: dict = {}


def _probe(game):
    """An environment that is reused, reset already."""
    if game not in _PROBES:
        _PROBES[game] = make(game)
        _PROBES[game].reset()
    return _PROBES[game]


_PAIRS: dict = {}


def pair(game, rng):
    """Two environments in the same state, some steps into the game, in one of the modes and settings.

    They are reused, but what they are in depends on ``rng`` alone.
    """
    mode = ("same_step", "next_step", "disabled")[rng.integers(3)]
    economy = [{}, {"tax_mode": "planner"}, {"tax_mode": "external"}, {"tax_mode": "saez"}]
    extra = {"gtb": economy, "one_step_economy": economy}.get(game, [{}])
    which = int(rng.integers(len(extra)))
    key = game, mode, which
    if key not in _PAIRS:
        envs = [make(game, autoreset=mode, **extra[which]) for _ in range(2)]
        for env in envs:
            env.reset()
        _PAIRS[key] = *envs, envs[0].snapshot()
    mine, twin, first = _PAIRS[key]
    mine.restore(first)
    mine.reset(seed=int(rng.integers(2**32)))
    for _ in range(int(rng.choice([0, 1, 2, 4, 7]))):
        mine.step(actions_of(mine, rng))
    twin.restore(mine.snapshot())
    return mine, twin


def _go_on(mine, twin, rng):
    for _ in range(2):
        actions = actions_of(mine, rng)
        same(step_tree(mine.step(actions)), step_tree(twin.step(actions)), "the next step of a twin")
    in_space(mine, mine.obs)


def try_actions(game, rng):
    mine, twin = pair(game, rng)
    plain = actions_of(mine, rng)
    given = odd_layout(plain, rng) if rng.random() < 0.5 else spoiled(plain, rng)
    outcome, result = attempt(mine, lambda: mine.step(given), ("action",))
    if outcome == "accepted":
        same(step_tree(result), step_tree(twin.step(np.array(given, np.int64))), "actions")
        _go_on(mine, twin, rng)
    return outcome


def natural_draws(env, rng, starting):
    """Some of the draws that a reset or a step makes, in range, and now and then one that it does not."""
    out = {}
    doing = {"reset"} if starting else {"step"} if env.autoreset == "disabled" else {"reset", "step"}
    for name, shape in env.draw_shapes.items():
        spec = env._draw_specs[name]
        if rng.random() < (0.4 if doing & set(spec.made_by) else 0.03):
            high = min(spec.high, 3.0)
            out[name] = (rng.uniform(spec.low, high, shape)).astype(spec.dtype)
            if name.endswith("order"):
                out[name] = np.argsort(rng.random(shape), 1).astype(spec.dtype)
    return _sensible(env, out, rng)


def _sensible(env, draws, rng):
    """Draws that a game's own checks let through, mostly: places where agents may stand, and pairs that go together."""
    if rng.random() < 0.1:
        return draws
    if "spawn" in draws:
        points = env.config.spawn_points
        draws["spawn"] = points[np.argsort(rng.random((env.num_envs, len(points))), 1)[:, : env.n_agents]]
    if "location" in draws:
        land = np.argwhere(env.options.cells != "@").astype(np.int16)
        draws["location"] = land[np.argsort(rng.random((env.num_envs, len(land))), 1)[:, : env.n_agents]]
    if ("waste" in draws) != ("waste_order" in draws):
        draws = {name: values for name, values in draws.items() if not name.startswith("waste")}
    return draws


def try_draws(game, rng):
    mine, twin = pair(game, rng)
    starting = rng.random() < 0.5
    plain = natural_draws(mine, rng, starting)
    given = {}
    for name, values in plain.items():
        given[name] = odd_layout(values, rng) if rng.random() < 0.8 else spoiled(values, rng)
    if rng.random() < 0.1:
        given[["nothing", "location", "place", 3][rng.integers(4)]] = odd_value(rng)
    actions = actions_of(mine, rng)

    def hand_in(env, draws):
        if starting:
            return {"obs": env.reset(options={"draws": draws})[0]}
        return step_tree(env.step(actions, draws=draws))

    outcome, result = attempt(mine, lambda: hand_in(mine, given), ("draw",))
    if outcome == "accepted":
        same(result, hand_in(twin, {k: np.array(v, twin._draw_specs[k].dtype) for k, v in given.items()}), "draws")
        _go_on(mine, twin, rng)
    return outcome


def try_reset(game, rng):
    """Masks, seeds and options of a reset."""
    mine, twin = pair(game, rng)
    if rng.random() < 0.3:
        seed = [3, [1, 2, 3], 2**70][rng.integers(3)] if rng.random() < 0.5 else odd_value(rng)
        given = [seed, np.uint64(3), np.array([4, 5, 6])][rng.integers(3)]
        outcome, result = attempt(mine, lambda: mine.reset(seed=given), ("seed",))
        if outcome == "accepted" and given is not None:
            plain = np.asarray(given, object).tolist()
            same({"obs": result[0]}, {"obs": twin.reset(seed=plain)[0]}, "seed")
            _go_on(mine, twin, rng)
        return outcome
    mask = rng.random(mine.num_envs) < 0.5
    given = odd_layout(mask, rng) if rng.random() < 0.6 else spoiled(mask, rng)
    options = {"reset_mask": given} if rng.random() < 0.95 else odd_value(rng)
    outcome, result = attempt(mine, lambda: mine.reset(options=options), ("reset", "options"))
    if outcome == "accepted":
        plain = None if not options or options.get("reset_mask") is None else np.array(options["reset_mask"], bool)
        same({"obs": result[0]}, {"obs": twin.reset(options={"reset_mask": plain})[0]}, "reset_mask")
        _go_on(mine, twin, rng)
    return outcome


def try_restore(game, rng):
    """A snapshot with something wrong in it; whatever is taken must be one that goes on within the rules."""
    mine, _ = pair(game, rng)
    saved = mine.snapshot()
    names = [name for name in saved if rng.random() < 0.9 or name == "options"]
    for name in rng.choice(names, rng.integers(1, 3), replace=False):
        saved[name] = _damaged(saved[name], rng)
    outcome, _ = attempt(mine, lambda: mine.restore(saved), ("snapshot",))
    if outcome == "accepted":
        now = mine.snapshot()
        same({k: np.array(v, now[k].dtype) for k, v in saved.items()}, now, "a restored snapshot")
        for _ in range(3):
            mine.step(actions_of(mine, rng))
        in_space(mine, mine.obs)
        mine.restore(mine.snapshot())  # what it leads to is consistent too
    return outcome


def _damaged(array, rng):
    choice = rng.integers(10)
    if choice == 0:
        return spoiled(array, rng)
    if choice == 1:
        return odd_layout(array, rng) if array.ndim else array
    out = array.copy()
    if not out.size:
        return out
    for _ in range(rng.integers(1, 3)):
        i = rng.integers(out.size)
        if choice < 5:  # a flipped bit
            raw = out.reshape(-1).view(np.uint8)
            raw[rng.integers(raw.size)] ^= np.uint8(1 << rng.integers(8))
        elif out.dtype.kind == "f":
            out.reshape(-1)[i] = [np.nan, np.inf, -1, 1e35, 0, 2][rng.integers(6)]
        elif out.dtype == np.bool_:
            out.reshape(-1)[i] ^= True
        else:
            info, old = np.iinfo(out.dtype), int(out.reshape(-1)[i])
            new = [info.max, info.min, old + 1, old - 1, 0, int(rng.integers(0, 100))][rng.integers(6)]
            out.reshape(-1)[i] = min(max(new, info.min), info.max)
    return out


def try_copies(game, rng):
    """Copies, pickles and dicts that the user writes to."""
    mine, _ = pair(game, rng)
    how = (copy.copy, copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env)))[rng.integers(3)]
    other = how(mine)
    same(mine.snapshot(), other.snapshot(), "a copy")
    for env in (mine, other):
        obs = env.obs
        for key in list(obs):
            obs[key] = None
        obs.clear()
    _go_on(mine, other, rng)
    return "accepted"


def try_designer(game, rng):
    """Entries of the designer, metrics, pictures: what a game offers beyond the shared interface."""
    mine, twin = pair(game, rng)
    calls = [
        name for name in ("set_rates", "choose_rates", "reset_completed", "metrics", "render") if hasattr(mine, name)
    ]
    if not calls:
        return try_actions(game, rng)
    name = calls[rng.integers(len(calls))]
    if name in ("metrics", "render"):
        given = odd_value(rng)
        outcome, result = attempt(mine, lambda: getattr(mine, name)(given), ("env", "agents"))
        if outcome == "accepted" and not (0 <= int(given) < mine.num_envs and result is not None):
            raise Wrong(f"{name}({given!r}) was taken")
        return outcome
    n, b = mine.num_envs, len(mine.options.cutoffs)
    plain = {
        "set_rates": rng.random((n, b) if rng.random() < 0.5 else b),
        "choose_rates": rng.integers(0, max(1, len(mine.options.rate_choices)), (n, b)),
        "reset_completed": rng.integers(0, 50, n),
    }[name]
    given = odd_layout(plain, rng) if rng.random() < 0.5 else spoiled(plain, rng)
    outcome, _ = attempt(mine, lambda: getattr(mine, name)(given), ("rates", "choice", "episodes"))
    if outcome == "accepted":
        getattr(twin, name)(np.array(given, plain.dtype))
        same(mine.snapshot(), twin.snapshot(), name)
        _go_on(mine, twin, rng)
    return outcome


GAME_TRIES = {
    "constructor": try_constructor, "actions": try_actions, "draws": try_draws, "reset": try_reset,
    "restore": try_restore, "copies": try_copies, "designer": try_designer,
}  # fmt: skip
