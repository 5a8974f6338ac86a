"""`make demo-cluster`: the demo's play on the whole installation. The figures come from outside the guard, as in the demo."""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from exfilguard.cli.demo import PATIENTS, SEED, TENANT, Demo, _directory, held, report
from exfilguard.cli.demo_view import View
from exfilguard.embedded.maven import missing_programs
from exfilguard.errors import ExfilGuardError
from exfilguard.lab import patients
from exfilguard.runtime.process import setup_logging

from .telephone import Telephone
from .topology import Choices, Topology
from .west import West

RINGS_WITHIN_S = 30.0


class ClusterDemo(Demo):
    """The same clinic and thief, before three brokers, two sidecars and two detectors."""

    topology: Topology
    west: West

    def _guarded(self, account: str) -> str:
        host, port = self.topology.network.hosts["east"].address, self.topology.ports["east"]
        return self.database.dsn(account, self.password, patients.DATABASE, port=port).replace("127.0.0.1", host)

    def play(self) -> dict[str, Any]:
        view = self.view
        view.say("starting a PostgreSQL server")
        telephone = Telephone()
        with self.database:
            self._load()
            policy = Path(self._config().detector.policy)
            choices = Choices(tenant=TENANT, policy=str(policy), east_mode=self.args.mode)
            self.topology = Topology(self.directory, self.database, self.password, choices)
            self.topology.webhook = telephone.url
            stop = threading.Event()
            try:
                self.topology.start(view.say)
                self._addresses()
                self.west = West(
                    self.topology.network.hosts["west"].address,
                    self.topology.ports["west"],
                    self.password,
                    self.args.seed,
                )
                self.west.start()
                figures: dict[str, Any] = self._perform(self.topology)  # type: ignore[arg-type]
                return self._more(figures, telephone)
            finally:
                stop.set()
                view.note("stopping")
                self.topology.stop()
                telephone.close()

    def _addresses(self) -> None:
        t, say = self.topology, self.view.say
        hosts = t.network.hosts
        say(f"Kafka {t.kafka.bootstrap}; PostgreSQL {hosts['east'].address}:{t.ports['east']}, MariaDB "
            f"{hosts['west'].address}:{t.ports['west']}")  # fmt: skip
        say(
            f"console https://{hosts['core'].address}:{t.ports['console']}, Prometheus http://127.0.0.1:{t.ports['prometheus']}"
        )

    def _settle(self, installation: Any) -> tuple[int, int, int]:
        self.west.stop()
        return super()._settle(installation)

    def _more(self, figures: dict[str, Any], telephone: Telephone) -> dict[str, Any]:
        """The MariaDB's people, and whether somebody was told."""
        locked_s = figures["locked_ms"] / 1000
        deadline = time.monotonic() + RINGS_WITHIN_S
        while not (rang := telephone.since(locked_s - 5)) and time.monotonic() < deadline:
            time.sleep(0.2)
        told = min(rang.values()) - 5 if rang else -1.0
        return {
            **figures,
            "rows_received_by_clients": figures["rows_received_by_clients"] + self.west.rows,
            "normal_queries": figures["normal_queries"] + self.west.queries,
            "normal_queries_refused": figures["normal_queries_refused"] + self.west.refused,
            "errors_of_clinic": figures["errors_of_clinic"] + self.west.errors,
            "page_after_lock_s": round(told, 1),
            "pages": sorted(rang),
            "brokers": len(self.topology.kafka.nodes),
            "namespaces": self.topology.network.separate,
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo-cluster", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--keep", metavar="DIR", help="keep the data directory there (it must be empty)")
    parser.add_argument("--patients", type=int, default=PATIENTS, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="default: %(default)s")
    parser.set_defaults(mode="observe", attack="pages")
    args = parser.parse_args()
    setup_logging("demo-cluster")
    if missing := missing_programs():
        print(f"error: Apache Kafka needs {missing}: on Debian/Ubuntu apt install openjdk-17-jre-headless maven")
        return 2
    directory, view = _directory(args.keep), View()
    try:
        with view:
            figures = ClusterDemo(args, directory, view).play()
        report(figures, view)
        rang = (
            f"{', '.join(figures['pages'])}, {figures['page_after_lock_s']} s after the lock"
            if figures["pages"]
            else "NOBODY"
        )
        print(f"paged             {rang}")
        print(f"cluster           {figures['brokers']} brokers, TLS, SCRAM, ACLs; MariaDB and PostgreSQL; machines "
              f"{'as network namespaces' if figures['namespaces'] else 'on loopback'}")  # fmt: skip
        if args.json:
            Path(args.json).write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    except ExfilGuardError as error:
        print(f"error: {error}")
        return 1
    finally:
        if args.keep:
            print(f"the data directory is kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if held(figures) and figures["pages"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
