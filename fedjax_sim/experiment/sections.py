"""The fixed sections of an experiment file: [client], [server], [run], [plan]."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from fedjax_sim.experiment.messages import one_of


class Strict(BaseModel):
    """Unknown keys and wrong types are refused, NaN and infinity too; values stay as read."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class OptimizerFacts(NamedTuple):
    """What an optax alias takes beside its learning rate.

    Attributes:
      params: numbers, for `optimizer_params`.
      momentum: whether it takes `momentum`.
      nesterov: whether it takes `nesterov`.
      decays: whether weight decay is its own (decoupled); otherwise it is added to gradients.
    """

    params: tuple[str, ...] = ()
    momentum: bool = False
    nesterov: bool = False
    decays: bool = False


_ADAM = ("b1", "b2", "eps", "eps_root")
OPTIMIZERS: dict[str, OptimizerFacts] = {
    "sgd": OptimizerFacts(momentum=True, nesterov=True),
    "adam": OptimizerFacts(_ADAM, nesterov=True),
    "adamw": OptimizerFacts(_ADAM, nesterov=True, decays=True),
    "adagrad": OptimizerFacts(("initial_accumulator_value", "eps")),
    "rmsprop": OptimizerFacts(("decay", "eps", "initial_scale"), momentum=True, nesterov=True),
    "yogi": OptimizerFacts(("b1", "b2", "eps")),
    "lion": OptimizerFacts(("b1", "b2"), decays=True),
    "adabelief": OptimizerFacts(_ADAM, nesterov=True),
    "adadelta": OptimizerFacts(("rho", "eps"), decays=True),
    "adamax": OptimizerFacts(("b1", "b2", "eps")),
    "adan": OptimizerFacts(("b1", "b2", "b3", "eps", "eps_root"), decays=True),
    "amsgrad": OptimizerFacts(_ADAM),
    "fromage": OptimizerFacts(("min_norm",)),
    "lamb": OptimizerFacts(_ADAM, decays=True),
    "lars": OptimizerFacts(("trust_coefficient", "eps"), True, True, True),
    "nadam": OptimizerFacts(_ADAM),
    "nadamw": OptimizerFacts(_ADAM, decays=True),
    "novograd": OptimizerFacts(_ADAM, decays=True),
    "radam": OptimizerFacts((*_ADAM, "threshold"), nesterov=True),
    "sign_sgd": OptimizerFacts(),
}


def facts_of(optimizer: str) -> OptimizerFacts | None:
    """What an optimizer takes; None for a user's own, which takes what it likes."""
    return OPTIMIZERS.get(optimizer)


def word_or_count(word: str, *others: str, least: int = 1, zero_is_word: bool = False) -> Any:
    """The type of a field that takes `word` (or another) or a whole number of at least `least`."""
    words = (word, *others)

    def check(value: Any) -> Any:
        if value in words:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            if value >= least:
                return value
            if zero_is_word and value == 0:
                return word
        listed = " or ".join(f'"{w}"' for w in words)
        raise ValueError(f"must be a whole number of at least {least}, or {listed}")

    return Annotated[int | str, BeforeValidator(check)]


class Optimizer(Strict):
    """An optimizer by its name in optax, or a user's own `package.module:function`."""

    optimizer: str = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    optimizer_params: dict[str, Any] = {}

    @field_validator("optimizer")
    @classmethod
    def _known(cls, value: str) -> str:
        if ":" not in value and value not in OPTIMIZERS:
            remedy = one_of(value, OPTIMIZERS)
            raise ValueError(f'{remedy}, or "package.module:function" of your own')
        return value

    @field_validator("momentum", "nesterov")
    @classmethod
    def _taken(cls, value: float | bool, info: ValidationInfo) -> float | bool:
        name = info.data.get("optimizer", "")
        facts, field = facts_of(name), str(info.field_name)
        if value and facts is not None and not getattr(facts, field):
            able = [n for n, f in OPTIMIZERS.items() if getattr(f, field)]
            raise ValueError(f"{name} takes no {field}; these do: {', '.join(able)}")
        if field == "nesterov" and value and facts is not None and facts.momentum:
            momentum = info.data.get("momentum")
            if momentum == 0:
                raise ValueError("needs momentum greater than 0 beside it")
        return value

    @field_validator("optimizer_params")
    @classmethod
    def _named(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        facts = facts_of(info.data.get("optimizer", ""))
        if facts is None:
            return value
        for name, number in value.items():
            if name not in facts.params:
                takes = one_of(name, facts.params, what="takes") if facts.params else "takes none"
                raise ValueError(f"{name} is not known; {info.data['optimizer']} {takes}")
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ValueError(f"{name} must be a number")
        return value


_SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {},
    "cosine": {"final": 0.0},
    "exponential": {"rate": 0.99},
    "step": {"rate": 0.5, "every": 25},
}


class Schedule(Strict):
    """How a rate follows the round: a factor on what the optimizer asks for.

    At the server rounds in which nobody reports do not count.

    Attributes:
      name: which.
      final: `cosine`: the factor at the last round.
      rate: `exponential`: the factor of a round; `step`: of a step.
      every: `step`: rounds between two steps.
      warmup: rounds in which the factor also rises linearly to 1.
    """

    name: Literal["none", "cosine", "exponential", "step"] = "none"
    final: float | None = Field(None, ge=0, le=1)
    rate: float | None = Field(None, gt=0, le=1)
    every: int | None = Field(None, ge=1)
    warmup: int = Field(0, ge=0)


def _as_schedule(value: Any) -> Any:
    """`"cosine"` as a table, defaults put in; keys of another schedule are refused."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        return table
    name = table.get("name", "none")
    takes = _SCHEDULES.get(name, {}) if isinstance(name, str) else {}
    for key in table if name in _SCHEDULES else ():
        if key in Schedule.model_fields and key not in {*takes, "name", "warmup"}:
            owners = [n for n, keys in _SCHEDULES.items() if key in keys]
            raise ValueError(f"{name} takes no {key}; these do: {', '.join(owners)}")
    return takes | table


_POLICIES: dict[str, dict[str, Any]] = {
    "average": {},
    "local": {},
    "frozen": {"after": 10, "affine": False},
    "recalibrated": {"every": 0},
}


class BatchNorm(Strict):
    """What is done with batch norms; see `algorithms.batch_norm`.

    Attributes:
      name: which policy.
      after: `frozen`: rounds that train on batch statistics first.
      affine: `frozen`: scales and biases stay too.
      every: `recalibrated`: the last rounds of each block of so many calibrate, and not only
        those of the run; 0 for none.
    """

    name: Literal["average", "local", "frozen", "recalibrated"] = "average"
    after: int | None = Field(None, ge=0)
    affine: bool | None = None
    every: int | None = Field(None, ge=0)


def _as_policy(value: Any) -> Any:
    """`"local"` as a table, defaults put in; keys of another policy are refused."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        return table
    name = table.get("name", "average")
    takes = _POLICIES.get(name, {}) if isinstance(name, str) else {}
    for key in table if name in _POLICIES else ():
        if key in BatchNorm.model_fields and key not in {*takes, "name"}:
            owner = next(n for n, keys in _POLICIES.items() if key in keys)
            raise ValueError(f"{name} takes no {key}; {owner} does")
    return takes | table


def bounded_steps(value: int | None, info: ValidationInfo) -> int | None:
    """Refuse training without an end."""
    if value is None and info.data.get("epochs", 1) is None:
        raise ValueError("give client.epochs (passes over a client's data) or client.steps")
    return value


class Client(Optimizer):
    """Local training of one client in one round."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1, validate_default=True)
    batch_size: word_or_count("full", zero_is_word=True) = 10  # type: ignore[valid-type]
    last: Literal["partial", "drop", "topup"] = "partial"
    shuffle: bool = True
    schedule: Annotated[Schedule, BeforeValidator(_as_schedule)] = Schedule.model_validate({})
    batch_norm: Annotated[BatchNorm | None, BeforeValidator(_as_policy)] = None

    bounded = field_validator("steps")(bounded_steps)


BATCH_FIELDS = ("epochs", "steps", "batch_size", "last", "shuffle")


class Server(Optimizer):
    """The server's optimizer; sgd at rate 1 is plain averaging."""

    learning_rate: float = Field(1.0, gt=0)
    schedule: Annotated[Schedule | None, BeforeValidator(_as_schedule)] = None


class Run(Strict):
    """How long, with whom, and what is written down."""

    rounds: int = Field(100, ge=1, le=2**31 - 1)
    cohort: word_or_count("all") | None = None  # type: ignore[valid-type]
    seed: int = Field(0, ge=0, le=2**32 - 1)
    eval_every: int = Field(1, ge=1)
    eval_batch_size: int = Field(256, ge=1)
    client_eval: bool = True
    checkpoint_every: int | None = Field(None, ge=0)
    keep_checkpoints: int = Field(2, ge=1)
    stragglers: float = Field(0.0, ge=0, le=1)
    drop_stragglers: bool = False


class Plan(Strict):
    """Where it runs; speed only."""

    lanes: word_or_count("auto", "probe") = "auto"  # type: ignore[valid-type]
    devices: word_or_count("auto") = "auto"  # type: ignore[valid-type]
    chunk: word_or_count("auto") = "auto"  # type: ignore[valid-type]
    lowering: bool = True
    client_state: Literal["auto", "device", "host", "disk"] = "auto"
    float64: bool = False


class Diagnosis(Strict):
    """What is watched while a run trains; see `settings.Diagnosis`."""

    verdict: bool = True
    drift_every: int = Field(10, ge=0)
    noise_scale: bool = False


class Systems(Strict):
    """Devices, links and a virtual clock; see `systems.Systems`."""

    fleet: Literal["phones", "equal"] = "phones"
    select: Literal["uniform", "tiers", "adaptive_tiers", "equal_time"] = "uniform"
    deadline_s: float | None = Field(None, gt=0)
    late: Literal["absent", "partial"] = "absent"
    over_select: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, le=1)
    availability: Literal["always", "bernoulli", "diurnal", "markov"] = "always"
    online: float = Field(0.8, ge=0, le=1)
    tiers: int = Field(5, ge=1)
    tier_probabilities: list[float] | None = None
    tier_interval: int = Field(10, ge=1)
    retier_every: int = Field(0, ge=0)
    equal_share: float = Field(0.5, ge=0, le=1)
    median_flops: float = Field(2e9, gt=0)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    correlate: float = Field(0.0, ge=-1, le=1)
    correlate_with: Literal["size", "group"] = "size"


class Evaluation(Strict):
    """Clients after local training, and clients that never take part; see `Evaluation`."""

    unseen: float = Field(0.0, ge=0, lt=1)
    adapt_epochs: int = Field(0, ge=0)
    adapt_rate: float = Field(0.05, gt=0)
    adapt_batch_size: int = Field(10, ge=1)


class Policy(Strict):
    """What a run does about its own course; see `policy.Policy`."""

    stop_on: list[Literal["converged", "stagnating", "oscillating", "diverging"]] = []
    patience: int = Field(20, ge=1)
    on_trouble: Literal["go_on", "stop", "cut", "restore"] = "go_on"
    cut: float = Field(0.5, gt=0, lt=1)
    most_cuts: int = Field(3, ge=1)
