"""The hook and its grants on the older PostgreSQL that Debian has: CREATEROLE and inheriting follow other rules there."""

from __future__ import annotations

import asyncio

from exfilguard.embedded.postgres import EmbeddedPostgres
from tests.drivers.servers import bin_dir
from tests.integration.conftest import enterable_directory

from .labs.lab import PASSWORD
from .labs.postgres import PostgresLab
from .orders import order

ACCOUNT = "dpi_export"


def test_the_grants_in_deploy_are_enough_before_16() -> None:
    programs = bin_dir("15")
    with enterable_directory() as directory:
        lab = PostgresLab(directory)
        lab.server = EmbeddedPostgres(directory / "old", bin_dir=programs)
        lab.server.start()
        try:
            lab.grants()
            with lab.admin() as admin:
                admin.execute(f"CREATE ROLE {ACCOUNT} LOGIN PASSWORD '{PASSWORD}'")
            hook, session = lab.hook(), lab.login(ACCOUNT)
            assert session is not None
            undo = asyncio.run(hook.before(order(ACCOUNT)))
            locked = asyncio.run(hook.lock(order(ACCOUNT)))
            assert (locked.outcome, locked.verified) == ("done", True)
            assert "1 session" in locked.detail
            assert lab.login(ACCOUNT) is None
            assert asyncio.run(hook.unlock(order(ACCOUNT), undo)).outcome == "done"
            assert lab.login(ACCOUNT) is not None
        finally:
            lab.server.stop()
