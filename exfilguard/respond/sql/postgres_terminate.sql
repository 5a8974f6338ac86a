-- Ends every backend of the role. NOLOGIN alone stops new logins only; a login that was under way when NOLOGIN was
-- committed can still appear, which is why the hook repeats this until none is left.
SELECT count(pg_terminate_backend(pid))
  FROM pg_stat_activity
 WHERE usename = %(role)s
   AND pid <> pg_backend_pid()
