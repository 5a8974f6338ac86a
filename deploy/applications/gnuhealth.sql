-- The account of the application hook for GNU Health, run in its database by its owner:
--   psql -v hook_password="$(cat hook.password)" -f gnuhealth.sql ghealth
-- It sees no patient, no password hash, and may change one column.
CREATE ROLE exfilguard_gnuhealth LOGIN PASSWORD :'hook_password' CONNECTION LIMIT 5;
GRANT SELECT (id, login, active), UPDATE (active) ON res_user TO exfilguard_gnuhealth;
GRANT SELECT (create_uid), DELETE ON ir_session TO exfilguard_gnuhealth;
