"""Configuration of a run: frozen dataclasses, checked, written to and read from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metagrad.options import AMD, Agents, Cleaners, CleanupGame, Clones, Designer, DualRL, Game, Payer

Method = Literal["metagrad", "metagrad-no-cv", "lio", "dual-rl-discrete", "dual-rl-continuous", "amd", "none"]


class ConfigError(ValueError):
    """An option is unknown, has the wrong type or an impossible value."""


@dataclass(frozen=True)
class Run:
    """What every experiment has."""

    game_name: Annotated[str, tyro.conf.Suppress] = ""
    """The game."""
    preset: Annotated[str, tyro.conf.Suppress] = ""
    """Preset that the other values started from."""
    seeds: Annotated[tuple[int, ...], tyro.conf.Suppress] = tuple(range(12340, 12348))
    """Independent runs, trained side by side."""
    target: float | None = None
    """Score that counts as solved; None for none."""
    episodes: int = 10_000
    """Training episodes of each seed."""
    k: int = 16
    """Parallel episodes in one update, K."""
    eval_period: int = 400
    """Training episodes between evaluations."""
    eval_episodes: int = 10
    """Episodes in an evaluation."""
    test_episodes: int = 100
    """Episodes in the test at the end."""
    checkpoint_period: int = 4_000
    """Training episodes between checkpoints."""
    init: Literal["tf1", "torch"] = "tf1"
    """Initial parameters: Glorot-uniform with zero biases, or torch's defaults."""
    device: str = "cpu"
    """Where the networks live."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating point type of the networks."""
    threads: int = 1
    """Threads inside a tensor operation."""

    def __post_init__(self) -> None:
        _check_types(self, "")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds must be distinct and not negative, got {_shown(self.seeds)}")
        if len(self.seeds) > MAX_SEEDS:
            raise ConfigError(f"seeds must be no more than {MAX_SEEDS:,}, got {len(self.seeds):,}")
        if self.threads > MAX_THREADS:
            raise ConfigError(f"threads must be at most {MAX_THREADS:,}, got {self.threads}")
        if self.episodes < self.k:
            raise ConfigError(f"episodes ({self.episodes}) must be at least k ({self.k})")


@dataclass(frozen=True)
class Config(Run):
    """Everything that decides what a run on Escape Room does."""

    game_name: Annotated[Literal["escape-room"], tyro.conf.Suppress] = "escape-room"
    """The game."""
    preset: Annotated[str, tyro.conf.Suppress] = "er_5_2"
    """Preset that the other values started from."""
    method: Annotated[Method, tyro.conf.Suppress] = "metagrad"
    """How incentives are set."""
    target: float | None = 25.0
    """Designer return, incentives subtracted, that counts as solved."""
    episodes: int = 32_000
    """Training episodes of each seed."""
    game: Game = field(default_factory=Game)
    agents: Agents = field(default_factory=Agents)
    designer: Designer = field(default_factory=Designer)
    dual: DualRL = field(default_factory=DualRL)
    amd: AMD = field(default_factory=AMD)
    agent_access: Literal["oracle", "cloned"] = "oracle"
    """What the meta-gradient differentiates: the agents themselves, or surrogates fitted to their behaviour."""
    clones: Clones = field(default_factory=Clones)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.agent_access == "cloned":
            _check_cloning(self)
        if self.game.min_at_lever > self.game.n_agents:
            raise ConfigError(
                f"game.min_at_lever is {self.game.min_at_lever} with {self.game.n_agents} agents: "
                "the door could never open"
            )
        if not self.dual.levels or min(self.dual.levels) < 0:
            raise ConfigError(f"dual.levels must not be negative, got {self.dual.levels}")
        if self.designer.baseline == "leave-one-out" and self.k == 1:
            raise ConfigError("designer.baseline leave-one-out needs k of at least 2")
        if self.method == "lio" and self.game.n_agents < 2:
            raise ConfigError("method lio needs at least 2 agents: nobody pays itself")


def _check_cloning(config: Config) -> None:
    if config.method not in ("metagrad", "metagrad-no-cv", "lio"):
        raise ConfigError(f"agent_access cloned is for designers that differentiate, not for method {config.method}")
    if config.agents.kind != "pg":
        raise ConfigError("agent_access cloned needs agents.kind pg: the critics of others cannot be observed")


TaxMethod = Literal["free-market", "us-federal", "saez", "fixed", "metagrad", "metagrad-no-cv", "dual-rl"]


@dataclass(frozen=True)
class Economy:
    """Gather-Trade-Build."""

    map: str = "pure_mixed_15"
    """Named map, or the path of one."""
    n_agents: int = 4
    """Number of agents."""
    fixed_four: bool = True
    """Start in the corners with the pay of a drawn skill rank."""
    steps: int = 100
    """Length of an episode."""
    tax_period: int = 10
    """Steps between tax days."""
    anneal: bool = False
    """Let a cap on the rates grow from 0.1 to 1 over 8,000 episodes."""
    rates: tuple[float, ...] = (0.5,) * 7
    """Rates by bracket of method `fixed`."""


@dataclass(frozen=True)
class Workers:
    """Agents of the economy: one policy and one critic for all."""

    filters: int = 6
    """Filters of each of the two convolutions."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the layers behind map and vector."""
    critic: Literal["flat", "trunk", "lstm"] = "flat"
    """On the vector alone; on map and vector, as the policy; or that with a recurrent layer, as published."""
    lr: float = 1e-3
    """Adam's learning rate of the policy."""
    lr_critic: float = 1e-3
    """Adam's learning rate of the critic."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.98
    """Decay of generalised advantages."""
    entropy: float = 0.1
    """Weight of the entropy bonus at the start."""
    entropy_end: float = 0.03
    """Weight of the entropy bonus at the end of its linear decrease."""
    entropy_episodes: int = 15_000
    """Episodes over which the entropy bonus decreases."""
    epsilon_start: float = 0.0
    """Share of uniform exploration over the legal actions in the first iteration."""
    epsilon_end: float = 0.0
    """Share of uniform exploration at the end of its linear decrease."""
    epsilon_div: int = 5_000
    """Iterations over which exploration decreases."""
    normalise: bool = True
    """Normalise the advantages of a batch."""
    epochs: int = 1
    """Passes over a batch; one is a plain policy-gradient step, more are proximal (PPO)."""
    minibatches: int = 1
    """Steps in a pass, each on its share of the rows, mixed; of the sequences with a recurrent critic."""
    clip: float = 0.2
    """Clipping range of the probability ratio; idle in the first step on a batch."""


@dataclass(frozen=True)
class DesignerReward:
    """What every designer of taxes is paid."""

    reward: Literal["level", "delta"] = "delta"
    """Welfare (equality times mean coin) after every step, or its change in the step."""
    gamma: float = 1.0
    """Discount of the designer's return; with 1 and `delta` that is the welfare at the end."""


@dataclass(frozen=True)
class TaxDesigner:
    """Meta-gradient designer of taxes."""

    policy: Literal["network", "schedule"] = "schedule"
    """Rates from all that the designer observes, once a period; or one rate a bracket, whatever it observes."""
    start: float = 0.2
    """Rate that a schedule starts with; a network starts close to one half."""
    filters: int = 6
    """Filters of each of the two convolutions (network)."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the layers behind map and vector (network)."""
    lr: float = 0.015
    """Adam's learning rate; for a schedule that of the logits."""
    chain: float = 1.0
    """Weight of the gradient through the agents' learning (the published method)."""
    direct: float = 1.0
    """Weight of the gradient of the designer's own reward at fixed behaviour."""
    response: Literal["step", "trace"] = "trace"
    """How far the chain follows the agents' learning: their last step, as published, or all their steps so far, the
    derivative of their parameters carried along and forgotten at the pace of `response_time`."""
    response_time: float = 64.0
    """Episodes in which the agents respond to new rates (trace)."""
    trace_stride: int = 8
    """Every so many-th step of the episodes gives the derivative that is carried along (trace)."""
    baseline: bool = True
    """Subtract a baseline from the derivative of the agents' advantages."""
    carry: bool = False
    """Follow the agents' utility of transferred coin through all later steps, not on the tax day alone (step)."""
    critic: Literal["returns", "linear", "network"] = "linear"
    """What judges the chain's actions: returns less their mean over the other episodes of a batch; or generalised
    advantages with values linear in what agents own; or with those of a network on what the designer sees, as
    published."""
    lr_critic: float = 1e-3
    """Adam's learning rate of that network."""
    gae_lambda: float = 1.0
    """Decay of those generalised advantages."""
    target_tau: float = 1.0
    """Pace at which its target network follows; 1 is no target network."""
    epochs: int = 1
    """Designer's steps on one pair of batches; more than one is the proximal objective (step)."""
    clip: float = 0.2
    """Clipping range of the proximal objective's probability ratio; idle in the first epoch."""
    coin_floor: float = 0.01
    """Least coin in the differentiated utility, which bounds the gradient of those who have none."""
    mode: Literal["forward", "unrolled"] = "forward"
    """How to compute the gradient through a step; both give the same."""


@dataclass(frozen=True)
class Planner:
    """Reinforcement learning designer of taxes ("AI Economist"): a rate of 0, 0.05, ..., 1 or no change, by bracket."""

    filters: int = 6
    """Filters of each of the two convolutions."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the layers behind map and vector."""
    lr: float = 5.8e-4
    """Adam's learning rate of the policy."""
    lr_critic: float = 2.1e-4
    """Adam's learning rate of the critic."""
    gae_lambda: float = 0.98
    """Decay of generalised advantages, over periods."""
    entropy: float = 0.01
    """Weight of the entropy bonus."""
    epochs: int = 1
    """Passes over a batch; one is a plain policy-gradient step, more are proximal (PPO)."""
    clip: float = 0.2
    """Clipping range of the probability ratio; idle in the first epoch."""
    normalise: bool = True
    """Normalise the advantages of a batch."""


@dataclass(frozen=True)
class EconomyConfig(Run):
    """Everything that decides what a run on Gather-Trade-Build does."""

    game_name: Annotated[Literal["gtb"], tyro.conf.Suppress] = "gtb"
    """The game."""
    preset: Annotated[str, tyro.conf.Suppress] = "gtb"
    """Preset that the other values started from."""
    method: Annotated[TaxMethod, tyro.conf.Suppress] = "free-market"
    """How taxes are set."""
    seeds: Annotated[tuple[int, ...], tyro.conf.Suppress] = (12340,)
    """Independent runs, trained in turn."""
    episodes: int = 14_400
    """Training episodes of each seed."""
    game: Economy = field(default_factory=Economy)
    agents: Workers = field(default_factory=Workers)
    reward: DesignerReward = field(default_factory=DesignerReward)
    designer: TaxDesigner = field(default_factory=TaxDesigner)
    planner: Planner = field(default_factory=Planner)
    init_from: str = ""
    """Folder of a run whose agents this one starts with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method.startswith("metagrad"):
            self._check_metagrad()
        if self.agents.minibatches > (most := self.k * self.game.n_agents):
            raise ConfigError(
                f"agents.minibatches is {self.agents.minibatches}, and a batch has {most} sequences of the agents"
            )

    def _check_metagrad(self) -> None:
        d = self.designer
        if self.game.n_agents >= 30:
            raise ConfigError("method metagrad needs fewer than 30 agents")
        if d.baseline and self.k < 2:
            raise ConfigError("designer.baseline needs k of at least 2")
        if d.baseline and d.mode == "unrolled":
            raise ConfigError("designer.mode unrolled goes without designer.baseline")
        if d.response == "trace" and (d.epochs > 1 or d.carry or d.mode == "unrolled"):
            raise ConfigError("designer.epochs, carry and mode unrolled go with designer.response step")
        if d.trace_stride > self.game.steps:
            raise ConfigError(f"designer.trace_stride must be at most game.steps ({self.game.steps})")
        if d.response == "trace" and d.response_time < self.k:
            raise ConfigError(f"designer.response_time must be at least k ({self.k}), got {d.response_time:g}")


CleanupMethod = Literal["metagrad", "dual-rl-continuous", "central", "none"]


@dataclass(frozen=True)
class CleanupConfig(Run):
    """Everything that decides what a run on Cleanup does."""

    game_name: Annotated[Literal["cleanup"], tyro.conf.Suppress] = "cleanup"
    """The game."""
    preset: Annotated[str, tyro.conf.Suppress] = "cleanup"
    """Preset that the other values started from."""
    method: Annotated[CleanupMethod, tyro.conf.Suppress] = "metagrad"
    """How incentives are set."""
    seeds: Annotated[tuple[int, ...], tyro.conf.Suppress] = (12340,)
    """Independent runs, trained in turn."""
    target: float | None = 33.5
    """Social welfare that counts as solved; four fifths of the best possible on the small map."""
    episodes: int = 10_000
    """Training episodes of each seed."""
    game: CleanupGame = field(default_factory=CleanupGame)
    agents: Cleaners = field(default_factory=Cleaners)
    designer: Payer = field(default_factory=Payer)
    agent_access: Literal["oracle", "cloned"] = "oracle"
    """What the meta-gradient differentiates: the agents themselves, or surrogates fitted to their behaviour."""
    clones: Clones = field(default_factory=lambda: Clones(lr=3e-3, steps=4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.agent_access == "cloned" and self.method != "metagrad":
            raise ConfigError(f"agent_access cloned goes with method metagrad, not with {self.method}")


AnyConfig = Config | EconomyConfig | CleanupConfig
CONFIGS: dict[str, type[Run]] = {"escape-room": Config, "cleanup": CleanupConfig, "gtb": EconomyConfig}


_BELOW_ONE = 1 - 1e-12
_GREATEST = 1e30  # with some room to the end of single precision

# Bounds of numeric options: (least, greatest, whether the least itself is allowed).
_BOUNDS: dict[str, tuple[float, float, bool]] = {
    "gamma": (0, 1, True),
    "epsilon_start": (0, 1, True),
    "epsilon_end": (0, 1, True),
    "entropy": (0, _GREATEST, True),
    "lr": (0, _GREATEST, True),
    "lr_incentive": (0, _GREATEST, True),
    "lr_cost": (0, _GREATEST, True),
    "beta2": (0, _BELOW_ONE, True),
    "beta2_cost": (0, _BELOW_ONE, True),
    "reg_coeff": (0, _GREATEST, True),
    "scale": (0, _GREATEST, False),
    "lr_critic": (0, _GREATEST, True),
    "cost_weight": (0, _GREATEST, True),
    "grad_clip": (0, _GREATEST, False),
    "gae_lambda": (0, 1, True),
    "entropy_end": (0, _GREATEST, True),
    "clip": (0, 1, False),
    "target_tau": (0, 1, False),
    "chain": (0, _GREATEST, True),
    "direct": (0, _GREATEST, True),
    "response_time": (0, _GREATEST, False),
    "start": (0, _BELOW_ONE, False),
    "coin_floor": (0, _GREATEST, True),
    "target": (-float("inf"), float("inf"), False),
}


#: Greatest numbers of seeds, threads and hidden layers; far beyond what is of use, and small enough to be asked for.
MAX_SEEDS, MAX_THREADS, MAX_LAYERS = 10_000, 1_024, 100
#: Integers stay below this: exact as floating point numbers, and sums of a few fit into 64 bits.
_INTEGERS = 2**53


def _check_types(node: Any, path: str) -> None:
    hints = typing.get_type_hints(type(node))
    for f in dataclasses.fields(node):
        value, hint, name = getattr(node, f.name), hints[f.name], f"{path}{f.name}"
        if typing.get_origin(hint) is types.UnionType:  # with None
            if value is None:
                continue
            hint = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{name}.")
        elif typing.get_origin(hint) is Literal:
            if value not in typing.get_args(hint):
                raise ConfigError(f"{name} must be one of {list(typing.get_args(hint))}, got {_shown(value)}")
        elif typing.get_origin(hint) is tuple:
            _check_tuple(name, value, *typing.get_args(hint))
        elif not _is(value, hint):
            raise ConfigError(f"{name} must be of type {hint.__name__}, got {_shown(value)}")
        elif hint in (int, float):
            _check_number(name, value, hint)


def _check_tuple(name: str, value: Any, item: type, *more: Any) -> None:
    """A list of any length, or of as many as there are types."""
    if not isinstance(value, tuple) or not all(_is(v, item) for v in value):
        raise ConfigError(f"{name} must be a list of {item.__name__}, got {_shown(value)}")
    if more != (Ellipsis,) and len(value) != 1 + len(more):
        raise ConfigError(f"{name} must have {1 + len(more)} entries, got {_shown(value)}")
    if any(not _is_finite(v) for v in value):
        raise ConfigError(f"{name} must be finite, got {_shown(value)}")
    if name.rpartition(".")[2].startswith("hidden"):
        if any(v < 1 for v in value):
            raise ConfigError(f"{name} must be positive, got {_shown(value)}")
        if len(value) > MAX_LAYERS:
            raise ConfigError(f"{name} must have at most {MAX_LAYERS} entries, got {len(value):,}")
    if item is int and any(v >= _INTEGERS for v in value):
        raise ConfigError(f"{name} must be below 2**53, got {_shown(value)}")


def _check_number(name: str, value: Any, hint: type) -> None:
    if hint is int:
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {_shown(value)}")
        if value >= _INTEGERS:
            raise ConfigError(f"{name} must be below 2**53, got {_shown(value)}")
        return
    least, greatest, closed = _BOUNDS[name.rpartition(".")[2]]
    if not _is_finite(value) or not (least <= value <= greatest) or (value == least and not closed):
        raise ConfigError(f"{name} is out of range: {_shown(value)}")


def _is(value: Any, hint: type) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floating point numbers
        return False


def _shown(value: Any) -> str:
    """A value in a message of one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def to_dict(config: Run) -> dict[str, Any]:
    """Nested plain values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Any, cls: type = Config, path: str = "") -> Any:
    """Inverse of :func:`to_dict`; refuses unknown options by name. Missing ones, of older runs, have their defaults."""
    if not isinstance(values, dict):
        raise ConfigError(f"{path.rstrip('.') or 'the configuration'} must be an object, got {_shown(values)}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in names:
            raise ConfigError(f"unknown option {path}{name}")
    arguments = {}
    for name in names:
        if name not in values:
            continue
        value = values[name]
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(value, hints[name], f"{path}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        arguments[name] = value
    if cls is EconomyConfig and arguments.get("target") == 0:
        arguments["target"] = None  # how older runs wrote that there is none
    return cls(**arguments)


def load(path: Path) -> AnyConfig:
    """Read a configuration that :func:`to_dict` made."""
    try:
        values = json.loads(path.read_text("utf-8"), object_pairs_hook=_once)
        game = values.get("game_name") if isinstance(values, dict) else None
        if not isinstance(game, str) or game not in CONFIGS:
            raise ConfigError(f"option game_name must be one of {list(CONFIGS)}, got {_shown(game)}")
        return from_dict(values, CONFIGS[game])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ; of two values of an option one would be dropped without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"option {next(n for n in names if names.count(n) > 1)} is there twice")
    return values
