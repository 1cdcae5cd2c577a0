"""What tenants do in each section, and mixes chosen afresh. Pure: no program is started here."""

from dataclasses import dataclass
from random import Random

from compute_plan import length_name


@dataclass(frozen=True)
class Work:
    """What a tenant does: how it launches, and how long its kernels take alone."""

    mode: str
    kernel_ns: int

    @property
    def name(self) -> str:
        return f"{length_name(self.kernel_ns)} {'sync each' if self.mode == 'sync1' else self.mode}"


@dataclass(frozen=True)
class Granted:
    """What `vcuda run` is told of a tenant."""

    cores: float
    is_elastic: bool = False
    weight: int | None = None
    priority: str | None = None

    def options(self) -> list[str]:
        words = ["--cores", f"{self.cores:g}"]
        words += ["--elastic"] if self.is_elastic else []
        words += ["--weight", str(self.weight)] if self.weight is not None else []
        return words + (["--priority", self.priority] if self.priority else [])


def by_weight(weight: int, of: int) -> Granted:
    """At least its part of all weights, and what others leave."""
    return Granted(100 * weight / of, is_elastic=True, weight=weight)


US20, US200, MS2 = 20_000, 200_000, 2_000_000
LENGTHS_NS = (US20, US200, MS2)
MIXED_MODES = ("free", "sync1")
RATIOS: tuple[tuple[int, ...], ...] = ((1, 1), (3, 7), (1, 9), (50, 30, 20))
# Programs of the tenant that has several.
SEVERAL = 4

PAIRS = (
    (Work("free", US20), Work("free", US20)),
    (Work("free", US200), Work("free", US200)),
    (Work("free", US200), Work("free", MS2)),
)


@dataclass(frozen=True)
class Mix:
    """Tenants with weights, each with its work and so many programs."""

    weights: tuple[int, ...]
    works: tuple[Work, ...]
    processes: tuple[int, ...]

    @property
    def several(self) -> int | None:
        """The tenant that has several programs."""
        return next((number for number, count in enumerate(self.processes) if count > 1), None)

    @property
    def name(self) -> str:
        kinds = [(f"{count} x " if count > 1 else "") + work.name for count, work in zip(self.processes, self.works)]
        return f"{':'.join(map(str, self.weights))}, {', '.join(kinds)}"


def mixes(seed: int, count: int) -> list[Mix]:
    """So many mixes: ratios in turn, each ratio every second time with a tenant of several programs, kernels' lengths and
    ways to launch by chance, but each about as often as the others. The same for the same seed, also if more are asked for."""
    random = Random(seed)
    bag: list[Work] = []
    chosen: list[Mix] = []
    for number in range(count):
        weights = RATIOS[number % len(RATIOS)]
        works = []
        for _ in weights:
            if not bag:
                bag = [Work(mode, length) for mode in MIXED_MODES for length in LENGTHS_NS]
                random.shuffle(bag)
            works.append(bag.pop())
        processes = [1] * len(weights)
        if (number + number // len(RATIOS)) % 2 == 1:
            processes[random.randrange(len(weights))] = SEVERAL
        chosen.append(Mix(weights, tuple(works), tuple(processes)))
    return chosen


@dataclass(frozen=True)
class Hard:
    """A limit that holds whatever the others do: what each tenant is limited to and does; on and off if it rests."""

    limits: tuple[int, ...]
    works: tuple[Work, ...]
    # By turns: which tenant works for 0.7 s and rests for 0.5 s; it is not judged then.
    resting: int | None = None

    @property
    def name(self) -> str:
        kinds = [f"{limit} % {work.name}" + (" by turns" if number == self.resting else "") for number, (limit, work) in enumerate(zip(self.limits, self.works))]
        return " beside ".join(kinds) if len(kinds) > 1 else f"{kinds[0]}, alone"


HARD = (
    Hard((30, 60), (Work("free", US200), Work("free", US200))),
    Hard((30, 60), (Work("sync1", US200), Work("free", MS2))),
    Hard((30, 60), (Work("free", US20), Work("sync1", MS2))),
    Hard((30, 60), (Work("free", US200), Work("free", US200)), resting=1),
    Hard((30, 60), (Work("free", US20), Work("sync1", US200)), resting=0),
    Hard((30,), (Work("free", US200),)),
    Hard((60,), (Work("sync1", US200),)),
)
ON_NS, OFF_NS = 700_000_000, 500_000_000


@dataclass(frozen=True)
class Stay:
    """A tenant of the time line: its weight and work, and when it comes and goes."""

    weight: int
    work: Work
    comes: float
    goes: float


STAYS = (
    Stay(50, Work("free", MS2), 0.0, 8.0),
    Stay(30, Work("free", US200), 2.0, 12.0),
    Stay(20, Work("sync1", US200), 4.0, 10.0),
)


def entitled(stays: list[Stay], when: float) -> list[float]:
    """The percent of the GPU that each tenant's weight gives it at a time; 0 for those that are not there."""
    there = [stay.comes <= when < stay.goes for stay in stays]
    total = sum(stay.weight for stay, is_there in zip(stays, there) if is_there)
    return [100 * stay.weight / total if is_there else 0.0 for stay, is_there in zip(stays, there)]


def phases(stays: list[Stay]) -> list[tuple[float, float]]:
    """The times between which nobody comes or goes."""
    edges = sorted({edge for stay in stays for edge in (stay.comes, stay.goes)})
    return list(zip(edges, edges[1:]))
