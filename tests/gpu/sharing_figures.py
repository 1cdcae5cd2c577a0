"""From counts of kernels to what tenants had of a GPU, lost, or waited for. Pure: no program is started here."""

import math
from dataclasses import dataclass
from statistics import mean


def smooth_rate(bins: list[int], bin_seconds: float) -> float:
    """Kernels a second, as a mean that counts the middle most and the ends not at all: where tenants take turns, a
    turn more or less at an end would be an error of a turn's length."""
    count = len(bins)
    if count == 0:
        return 0.0
    weights = [math.sin(math.pi * (number + 0.5) / count) ** 2 for number in range(count)]
    return sum(weight * kernels for weight, kernels in zip(weights, bins)) / sum(weights) / bin_seconds


def added(rows: list[list[int]]) -> list[int]:
    """The sums of what several programs did in the same steps."""
    return [sum(column) for column in zip(*rows)]


def percentile(values: list[float], part: float) -> float:
    """The value that this part of them doesn't exceed."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered), max(1, math.ceil(part * len(ordered)))) - 1]


@dataclass(frozen=True)
class Split:
    """What tenants had, each in percent of what it does alone, against their weights."""

    shares: list[float]
    weights: list[float]
    # A tenant of several programs, if there is one: alone, those hold each other up, so what they do then tells nothing.
    several: int | None = None

    @property
    def total(self) -> float:
        return sum(self.shares)

    @property
    def off(self) -> list[float | None]:
        """By what part each tenant's share differs from what its weight asks for, in percent: the share of all that
        was had, but beside a tenant of several programs the share of the GPU. Of that one it is not told: whether it
        has more than it should shows in what others have."""
        whole = self.total if self.several is None else 100.0
        if whole == 0:
            return [-100.0 for _ in self.shares]
        off = [100 * (share / whole * sum(self.weights) / weight - 1) for share, weight in zip(self.shares, self.weights)]
        return [None if number == self.several else one for number, one in enumerate(off)]

    @property
    def worst(self) -> float:
        return max(abs(one) for one in self.off if one is not None)


def first_ms(bins: list[int], bin_ms: float) -> float:
    """When the first work was done; infinite if none was."""
    return next((bin_ms * (number + 1) for number, kernels in enumerate(bins) if kernels), math.inf)


def behind_ms(bins: list[int], bin_ms: float, period_ns: float, share: float, settle_ms: float) -> float:
    """By how much a tenant is behind one that had its share from the first moment on, in milliseconds of that: the mean
    of what is found at all times from `settle_ms` on, as turns make it more and less."""
    done_ms, found = 0.0, []
    for number, kernels in enumerate(bins):
        done_ms += kernels * period_ns / 1e6
        now_ms = bin_ms * (number + 1)
        if now_ms > settle_ms:
            found.append(now_ms - done_ms / share)
    return mean(found) if found else math.inf


def lost_ms(bins: list[int], bin_ms: float, period_ns: float, begin_ms: float, length_ms: float) -> float:
    """What of a time a tenant that wanted all of it did not get, in milliseconds."""
    first, last = round(begin_ms / bin_ms), round((begin_ms + length_ms) / bin_ms)
    if last > len(bins):
        raise ValueError("the time ends after what was measured")
    return (last - first) * bin_ms - sum(bins[first:last]) * period_ns / 1e6


def burnt(cpu_seconds: float, kernels: float, alone_cpu_seconds: float, alone_kernels: float, seconds: float) -> float:
    """Processor time that a tenant used for more than its kernels need when it is alone, in percent of a core."""
    own = alone_cpu_seconds * kernels / alone_kernels if alone_kernels else 0.0
    return 100 * (cpu_seconds - own) / seconds


def smoothed(values: list[float], width: int) -> list[float]:
    """Each value as a mean over `width` on both sides, of which the nearest count most."""
    weights = [math.cos(math.pi / 2 * offset / (width + 1)) ** 2 for offset in range(-width, width + 1)]
    out = []
    for number in range(len(values)):
        pairs = [(weights[offset + width], values[number + offset]) for offset in range(-width, width + 1) if 0 <= number + offset < len(values)]
        out.append(sum(weight * value for weight, value in pairs) / sum(weight for weight, _ in pairs))
    return out


def unrest(alone: list[list[float]]) -> float:
    """The most that what one does alone differed from what it did alone the time before, in percent."""
    steps = [abs(after / before - 1) for first, then in zip(alone, alone[1:]) for before, after in zip(first, then) if before]
    return 100 * max(steps, default=0.0)
