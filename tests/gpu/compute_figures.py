"""From counts of kernels to shares of the GPU's time. Pure: no program is started here."""

from dataclasses import dataclass, field
from statistics import mean


@dataclass
class Counted:
    """What one run of the load did, as it says itself."""

    # Between the end of one kernel and the end of another.
    kernels: int
    seconds: float
    # In the whole time that was asked for.
    window_kernels: int
    window_seconds: float
    # The most kernels whose end was noted at once.
    largest_note: int
    # Kernels done in each tenth of a second.
    tenths: list[int] = field(default_factory=list)
    # Share of the time that was busy by the GPU's timer, if kernels wrote it down.
    busy_share: float | None = None
    logged_kernels: int = 0
    log_dropped: int = 0
    globaltimer_step_ns: int = 0
    all_kernels: float = 0
    all_seconds: float = 0
    # Where the time that was asked for began, on the monotonic clock.
    from_ns: int = 0
    # Kernels done in each step of a length that was asked for.
    bins: list[int] = field(default_factory=list)
    # What each request took from when it was due.
    requests_ns: list[int] = field(default_factory=list)

    @staticmethod
    def parse(lines: list[str]) -> "Counted":
        words = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}

        def number(key: str, other: float = 0) -> float:
            return float(words[key][0]) if words.get(key) else other

        return Counted(
            kernels=int(number("kernels")), seconds=number("seconds"),
            window_kernels=int(number("window_kernels")), window_seconds=number("window_seconds"),
            largest_note=int(number("largest_note")), tenths=[int(word) for word in words.get("tenths", [])],
            busy_share=number("busy_share") if "busy_share" in words else None,
            logged_kernels=int(number("logged_kernels")), log_dropped=int(number("log_dropped")),
            globaltimer_step_ns=int(number("globaltimer_step_ns")),
            all_kernels=number("all_kernels"), all_seconds=number("all_seconds"),
            from_ns=int(number("from_ns")), bins=[int(word) for word in words.get("bins", [])],
            requests_ns=[int(word) for word in words.get("requests_ns", [])],
        )  # fmt: skip

    @property
    def rate_hz(self) -> float:
        """Kernels a second. Measured from one kernel's end to another's, which a whole kernel more or less doesn't
        falsify; but never outside what the count of the whole time allows, in which a program that was locked out
        for the end of it shows."""
        low = max(0, self.window_kernels - self.largest_note) / self.window_seconds
        high = (self.window_kernels + self.largest_note) / self.window_seconds
        rate = self.kernels / self.seconds if self.seconds > 0 else low
        return min(max(rate, low), high)


def share(counted: Counted, period_ns: float) -> float:
    """Percent of the GPU's time, by what one kernel takes of it alone."""
    return counted.rate_hz * period_ns / 1e7


def whole_share(counted: Counted, period_ns: float) -> float:
    """The same by all that was done in the time asked for. For programs that are added up: their kernels end at
    different times, and what each had begun before makes up for what it had not ended."""
    return counted.window_kernels * period_ns / counted.window_seconds / 1e7


def windows(counted: Counted, period_ns: float) -> tuple[float, float]:
    """The least and the most percent within any second, by steps of a tenth."""
    sums = [sum(counted.tenths[start : start + 10]) for start in range(len(counted.tenths) - 9)]
    shares = [count * period_ns / 1e7 for count in sums]
    return (min(shares), max(shares)) if shares else (0.0, 0.0)


def between(before: tuple[float, float], after: tuple[float, float], when: float) -> float:
    """A figure that was taken twice, each a pair of time and value, as it was at another time."""
    (first, low), (last, high) = before, after
    return low if last <= first else low + (high - low) * (when - first) / (last - first)


def union_seconds(intervals: list[tuple[int, int]]) -> float:
    """The time that intervals of nanoseconds cover together."""
    total, end_so_far = 0, None
    for begin, end in sorted(intervals):
        if end_so_far is None or begin > end_so_far:
            total += end - begin
            end_so_far = end
        elif end > end_so_far:
            total += end - end_so_far
            end_so_far = end
    return total / 1e9


@dataclass
class Errors:
    """Differences between got and expected, in points."""

    most: float
    mean: float

    @staticmethod
    def of(differences: list[float]) -> "Errors":
        sizes = [abs(one) for one in differences]
        return Errors(max(sizes, default=0.0), mean(sizes) if sizes else 0.0)
