-- The account of the application hook on MariaDB/MySQL. It sees no patient, no password hash, and may change one column.
--   mariadb < mediboard-like.sql, then: ALTER USER exfilguard_dpi@'%' IDENTIFIED BY '...'
CREATE USER IF NOT EXISTS exfilguard_dpi@'%' IDENTIFIED VIA mysql_native_password USING 'invalid';
GRANT SELECT (user_id, login, actif), UPDATE (actif) ON dpi.users TO exfilguard_dpi@'%';
GRANT SELECT (user_id), DELETE ON dpi.sessions TO exfilguard_dpi@'%';
