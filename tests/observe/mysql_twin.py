"""What the MySQL observer makes of recorded and of mutated conversations, a line each; `python -m tests.observe.mysql_twin N` prints it
of the modules' sources, run as Python."""

from __future__ import annotations

import random
import sys


def observations(mutated: int) -> list[str]:
    """Of every transcript, cut at random, and of so many mutated inputs: events, and where a guard would stop."""
    from exfilguard.events.codec import encode_event
    from exfilguard.observe.mysql.session import MysqlObserver
    from exfilguard.observe.tally import Setting
    from exfilguard.wire.mysql import startup
    from tests.fuzz.mysql import CAPABILITIES, Mysql, OriginColumns
    from tests.fuzz.run import rng_of
    from tests.observe import test_mysql_transcripts

    out = []
    for name in test_mysql_transcripts.TRANSCRIPTS:
        seen, events = test_mysql_transcripts.play(name, random.Random(name))
        out.append(f"{name} {seen.next_sequence} " + " ".join(encode_event(event).decode() for event in events))
    target = Mysql()
    setting = Setting("ehr", target.setting.digester, 20, 50)
    for number in range(mutated):
        given = target.make(rng_of(number))
        if given.steps[0][0] != "=" or given.steps[0][1][0] >= len(CAPABILITIES):
            continue
        columns = OriginColumns(["patient.id", "sejour.patient_id"])
        observer = MysqlObserver(setting, "s", "10.0.0.9", columns, asked=target.asked)
        observer.startup(startup.Login(0, "app", "clinic", "", {}))
        observer.login_succeeded(CAPABILITIES[given.steps[0][1][0]], "", 1)
        line, held = [str(number)], b""
        for now, (side, data) in enumerate(given.steps[1:], 1):
            if side == ">":
                events = observer.client_data(data, now)
            elif given.allowed_rows is None and given.allowed_patients is None and number % 2:
                events = observer.observed(data, now)
                line.append(str(observer.portion_rows))
            else:
                data, held = held + data, b""
                found = observer.server_data(data, now, given.allowed_rows, given.allowed_patients, ())
                events = found.events
                line.append(f"{found.rows} {found.new_patients} {found.estimated} {found.cut_at} {found.hold_at}")
                if found.hold_at is not None:
                    held = data[found.hold_at :]
                if found.cut_at is not None:
                    break
            line += [encode_event(event).decode() for event in events]
        line += [encode_event(event).decode() for event in observer.close(10_000)]
        out.append(" ".join(line))
    return out


if __name__ == "__main__":
    from tests.fuzz.interpreted import interpret

    interpret()
    for said in observations(int(sys.argv[1])):
        print(said)
