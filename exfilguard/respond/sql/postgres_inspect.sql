-- One row when the role exists: what it may do, and how many of its backends run.
SELECT r.rolcanlogin,
       r.rolsuper,
       (SELECT count(*) FROM pg_stat_activity AS a WHERE a.usesysid = r.oid AND a.pid <> pg_backend_pid()) AS backends
  FROM pg_roles AS r
 WHERE r.rolname = %(role)s
