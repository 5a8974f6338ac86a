"""`make chaos`: `kill -9` of shipper, detector and broker at random points under load; after each kill the totals must equal the
oracle's exactly. Apache Kafka, which keeps its data; the embedded broker's forgetting has its own test in the suite.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from exfilguard.embedded.kafka import ApacheKafka
from tests.integration.pipeline import PARTITIONS, installation
from tests.integration.stack import settled_totals

from .report import QUICK, Report, percentile

KILLS = 3 if QUICK else 200
SEED = 4
SETTLE_S = 120.0


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    rng = random.Random(SEED)
    report = Report("chaos")
    killed: Counter[str] = Counter()
    wrong = 0
    recovery_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="exfilguard-chaos-") as name:
        broker = ApacheKafka(Path(name) / "kafka")
        broker.start()
        stack, load = installation(Path(name) / "data", broker)
        try:
            stack.start("shipper")
            stack.start("detector")
            stack.detector_ready()
            for number in range(kills):
                victim = "detector" if QUICK and number == 0 else rng.choice(("shipper", "detector", "broker"))
                killed[victim] += 1
                for _ in range(rng.randrange(1, 8)):
                    load.write(rng.randrange(300))
                    time.sleep(rng.random() * 0.05)
                if victim == "broker":
                    broker.kill()
                else:
                    stack.kill(victim)
                load.write(rng.randrange(300))
                time.sleep(rng.random() * 0.3)
                began = time.monotonic()
                if victim == "broker":
                    broker.start()
                else:
                    arguments = ("--worker", str(number + 2)) if victim == "detector" else ()
                    stack.start(victim, *arguments)
                load.write(rng.randrange(300))
                found = settled_totals(stack.config, PARTITIONS, load.equals, SETTLE_S)
                recovery_s.append(time.monotonic() - began)
                if not load.equals(found):
                    wrong += 1
                    print(f"kill {number} of {victim}: the totals differ from the oracle's", flush=True)
                if (number + 1) % 10 == 0:
                    print(f"{number + 1} kills {dict(killed)}, {load.events} events, {wrong} wrong", flush=True)
        finally:
            stack.stop()
            broker.stop()
    report.facts = {"killed": dict(killed), "events": load.events, "recovery_p50_s": percentile(recovery_s, 0.5)}
    report.bar("kills", kills, kills, at_most=False)
    report.bar("totals_unlike_the_oracle", wrong, 0)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
