-- The account of ExfilGuard's PostgreSQL hook. Run once as a superuser:
--
--   psql -v ON_ERROR_STOP=1 -v hook_password="$(cat hook.password)" -f hook.sql
--
-- It may set NOLOGIN on ordinary roles and end their sessions. It reads no table and is no superuser.

CREATE ROLE exfilguard_hook LOGIN CREATEROLE NOINHERIT PASSWORD :'hook_password' CONNECTION LIMIT 10;

SELECT current_setting('server_version_num')::int >= 160000 AS grants_have_options \gset
\if :grants_have_options
GRANT pg_signal_backend TO exfilguard_hook WITH INHERIT TRUE;
\else
-- Before PostgreSQL 16 inheriting is a property of the role, and CREATEROLE reaches every role that is no superuser, its password and
-- its memberships too: guard hook.dsn as you guard a superuser's password.
ALTER ROLE exfilguard_hook INHERIT;
GRANT pg_signal_backend TO exfilguard_hook;
\endif

-- PostgreSQL 16 and later: CREATEROLE reaches only the roles one has ADMIN OPTION on. Repeat this for each account that
-- may be locked; INHERIT FALSE, SET FALSE give the hook nothing of what the account may read.
--
--   GRANT dpi_export TO exfilguard_hook WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
--
-- The same for every ordinary login role there is now:
SELECT format('GRANT %I TO exfilguard_hook WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', rolname)
  FROM pg_roles
 WHERE rolcanlogin AND NOT rolsuper AND NOT rolreplication AND rolname <> 'exfilguard_hook'
   AND current_setting('server_version_num')::int >= 160000
\gexec
