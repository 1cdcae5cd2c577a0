#!/usr/bin/env python3
"""Two tenants share one GPU, and you watch: one has seven tenths of it, the other three, and what one leaves the other
may use. Without a GPU, or with --simulated, on the simulated driver.

usage: examples/sharing/watch.py [--simulated] [--seconds N] [--vcuda FILE] [--driver FOLDER]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BAR = 24
# Tenants take turns of some milliseconds; over this many seconds what they have is even.
WINDOW = 0.5


class Tenant:
    """A program, under a `vcuda run` or by itself, that says how much it has done."""

    def __init__(self, command, environment):
        self.told = []
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.told.append((time.monotonic(), int(line.split()[1])))

    def rate(self, begin, end):
        """Kernels a second between two moments; nothing if it said nothing then."""
        told = [one for one in list(self.told) if begin <= one[0] <= end]
        if len(told) < 2:
            return 0.0
        (first, before), (last, after) = told[0], told[-1]
        return (after - before) / (last - first)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("--simulated", action="store_true", help="use the simulated driver even where there is a GPU")
    parser.add_argument("--seconds", type=float, default=9, help="how long you watch (default: 9)")
    parser.add_argument("--vcuda", type=Path, help="the command (default: target/release/vcuda, else target/debug/vcuda)")
    parser.add_argument("--driver", type=Path, help="the folder of the simulated driver (default: built by scripts/fake-driver)")
    return parser.parse_args()


def command(options):
    places = [options.vcuda] if options.vcuda else [ROOT / "target" / profile / "vcuda" for profile in ("release", "debug")]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        sys.exit("watch.py: no vcuda there; build it: cargo build --release -p vcuda-shim -p vcuda-cli")
    return found


def surroundings(options, scratch):
    environment = dict(os.environ)
    if options.simulated or options.driver or not Path("/dev/nvidiactl").exists():
        driver = options.driver or subprocess.run([ROOT / "scripts/fake-driver"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        environment |= {"LD_LIBRARY_PATH": str(driver), "VCUDA_FAKE_GPUS": "H200", "VCUDA_FAKE_STATE": f"{scratch}/machine"}
        # Simulated GPUs of different machines are called the same, and don't take turns with each other.
        environment.setdefault("VCUDA_ARBITER_FILE", f"{scratch}/arbiter")
    return environment


def bar(percent):
    full = min(BAR, round(BAR * percent / 100))
    return "█" * full + "░" * (BAR - full) + f" {percent:3.0f} %"


def main():
    options = arguments()
    vcuda = command(options)
    with tempfile.TemporaryDirectory(prefix="vcuda-sharing-") as scratch:
        work = f"{scratch}/work"
        subprocess.run(["cc", "-O2", "-o", work, HERE / "work.c", "-ldl"], check=True)
        environment = surroundings(options, scratch)

        alone = Tenant([work, "1.2"], environment)
        alone.process.wait()
        full = alone.rate(0, time.monotonic())
        print(f"One program alone, without vcuda: {full:.0f} kernels a second. That is 100 %.\n")

        # The larger one is there from the beginning until two thirds of the time, the smaller one from one third on.
        third = options.seconds / 3
        names = {"large": 70, "small": 30}
        tenants = {}

        def start(name):
            share = names[name]
            line = f"vcuda run --cores {share} --elastic --weight {share} -- work"
            print(f"$ {line}    # {name}")
            own = [vcuda, *line.split()[1:-1], work, f"{2 * third}"]
            tenants[name] = Tenant(own, environment)

        start("large")
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < options.seconds:
            if now >= third and "small" not in tenants:
                start("small")
            time.sleep(min(0.25, third / 8))
            end = time.monotonic()
            had = {name: 100 * tenant.rate(end - WINDOW, end) / full for name, tenant in tenants.items()}
            print(f"{end - begin:5.1f} s  " + "   ".join(f"{name} {bar(had.get(name, 0))}" for name in names), flush=True)
        for tenant in tenants.values():
            tenant.process.wait()

        # From when the second had settled until the first went.
        begin, end = begin + third + 0.7, begin + 2 * third - 0.1
        shares = {name: 100 * tenant.rate(begin, end) / full for name, tenant in tenants.items()}
        print(f"\nWhile both were there: {' and '.join(f'{name} {share:.1f} %' for name, share in shares.items())}, together {sum(shares.values()):.1f} %.")
        print("While one was alone it had all there is; neither knew of the other.")


if __name__ == "__main__":
    main()
