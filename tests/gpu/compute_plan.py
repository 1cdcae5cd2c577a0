"""Which cells of the grid are measured, for how long, and in which order. Pure: no program is started here."""

from collections import Counter
from dataclasses import dataclass
from random import Random

SHARES = (5, 10, 30, 50, 70, 90, 95)
LENGTHS_NS = (20_000, 200_000, 2_000_000, 20_000_000)
MODES = ("sync1", "sync16", "free", "streams8", "graph20", "cooperative", "ex")
# Loops that wait for their own work: their pauses are not GPU time.
SYNC_MODES = ("sync1", "sync16")
UNITS_PER_CELL = 110
LEAST_SECONDS = 2.0
# Cells that take more than this many seconds share this part of the time.
LONG_SECONDS = 8.0
LONG_PART = 0.4


def kernels_per_unit(mode: str) -> int:
    """Kernels that are given to the GPU at once."""
    return 20 if mode.startswith("graph20") else 1


@dataclass(frozen=True)
class Cell:
    """A share in percent, the kernels' length, and how they are launched."""

    asked: int
    kernel_ns: int
    mode: str

    @property
    def unit_seconds(self) -> float:
        return self.kernel_ns * kernels_per_unit(self.mode) / 1e9

    @property
    def cycle_seconds(self) -> float:
        """The time from one unit to the next at the asked share."""
        return self.unit_seconds * 100 / self.asked

    @property
    def seconds(self) -> float:
        """Long enough for 110 units at the asked share."""
        return max(LEAST_SECONDS, UNITS_PER_CELL * self.cycle_seconds)

    @property
    def warmup_seconds(self) -> float:
        return max(0.5, 3 * self.cycle_seconds)

    @property
    def name(self) -> str:
        return f"{self.asked} %, {length_name(self.kernel_ns)}, {self.mode}"

    def cost(self, start_seconds: float) -> float:
        """All it takes, with the start and the end of its program."""
        return start_seconds + self.warmup_seconds + self.seconds + self.cycle_seconds


def length_name(kernel_ns: int) -> str:
    return f"{kernel_ns // 1_000_000} ms" if kernel_ns >= 1_000_000 else f"{kernel_ns // 1000} us"


def all_cells() -> list[Cell]:
    return [Cell(asked, length, mode) for asked in SHARES for length in LENGTHS_NS for mode in MODES]


def reference_seconds(mode: str, kernel_ns: int) -> float:
    """How long the same work is timed bare: several of what is done at once, or between two waits."""
    at_once = 64 if mode == "sync16" else 12 * kernels_per_unit(mode)
    return max(0.6, at_once * kernel_ns / 1e9)


def references(cells: list[Cell]) -> list[tuple[str, int]]:
    """What has to be timed bare for these cells: each mode and length, and of each length plain kernels in a row."""
    wanted = {(cell.mode, cell.kernel_ns) for cell in cells} | {("batch", cell.kernel_ns) for cell in cells}
    return sorted(wanted)


def references_cost(cells: list[Cell], turns: int) -> float:
    return turns * sum(reference_seconds(mode, kernel_ns) + 0.25 for mode, kernel_ns in references(cells))


def choose(count: int, budget_seconds: float, start_seconds: float, random: Random) -> list[Cell]:
    """So many different cells, or as many as the time allows, in random order: every share, length and mode about
    as often as the others, as far as long cells leave time."""
    chosen: list[Cell] = []
    seen: Counter = Counter()
    left = budget_seconds
    long_left = budget_seconds * LONG_PART
    rest = [cell for cell in all_cells() if cell.cost(start_seconds) < budget_seconds]

    def crowding(cell: Cell) -> float:
        return (
            seen[cell.asked] * len(SHARES) + seen[cell.kernel_ns] * len(LENGTHS_NS) + seen[cell.mode] * len(MODES)
            + sum(seen[pair] for pair in pairs(cell)) * 10
        )  # fmt: skip

    while rest and len(chosen) < count:
        # What is kept back lets the others be there at all.
        cheapest = sorted(cell.cost(start_seconds) for cell in rest)
        kept_back = sum(cheapest[: count - len(chosen) - 1])
        possible = [cell for cell in rest if cell.cost(start_seconds) <= left - kept_back]
        possible = [cell for cell in possible if cell.seconds <= LONG_SECONDS or cell.seconds <= long_left]
        if not possible:
            possible = [cell for cell in rest if cell.cost(start_seconds) <= min(left, cheapest[0] + 0.5)]
        if not possible:
            break
        least = min(crowding(cell) for cell in possible)
        cell = random.choice([cell for cell in possible if crowding(cell) == least])
        rest.remove(cell)
        chosen.append(cell)
        left -= cell.cost(start_seconds)
        if cell.seconds > LONG_SECONDS:
            long_left -= cell.seconds
        seen.update((cell.asked, cell.kernel_ns, cell.mode, *pairs(cell)))
    random.shuffle(chosen)
    return chosen


def fit(count: int, budget_seconds: float, start_seconds: float, seed: int) -> list[Cell]:
    """Cells whose bare periods, taken twice, fit into the budget as well. The same for the same seed and budget."""
    allowance = budget_seconds
    while allowance > 0:
        cells = choose(count, allowance, start_seconds, Random(seed))
        total = sum(cell.cost(start_seconds) for cell in cells) + references_cost(cells, 2) + 2 * start_seconds
        if total <= budget_seconds:
            return cells
        allowance -= max(1.0, 0.5 * (total - budget_seconds))
    return []


def pairs(cell: Cell) -> tuple:
    return (cell.asked, cell.kernel_ns), (cell.kernel_ns, cell.mode), (cell.asked, cell.mode)


def covers_all(cells: list[Cell]) -> bool:
    return (
        {cell.asked for cell in cells} == set(SHARES)
        and {cell.kernel_ns for cell in cells} == set(LENGTHS_NS)
        and {cell.mode for cell in cells} == set(MODES)
    )
