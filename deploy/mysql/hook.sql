-- The account of ExfilGuard's MySQL/MariaDB hook. MariaDB 10.5 and later; run once as an administrator:
--
--   mariadb < hook.sql
--   mariadb -e "ALTER USER exfilguard_hook@'%' IDENTIFIED BY '...'"        (it is created without a way to log in)
--
-- The hook may EXECUTE the procedures below and nothing else. They run with the rights of `exfilguard_definer`, an account
-- that is locked and that nobody can log in with; they refuse administrators, and quote every name themselves.

CREATE DATABASE IF NOT EXISTS exfilguard CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE USER IF NOT EXISTS exfilguard_definer@localhost ACCOUNT LOCK;
GRANT CREATE USER, CONNECTION ADMIN, PROCESS ON *.* TO exfilguard_definer@localhost;
GRANT SELECT ON mysql.global_priv TO exfilguard_definer@localhost;
GRANT SELECT ON mysql.user TO exfilguard_definer@localhost;
GRANT EXECUTE ON exfilguard.* TO exfilguard_definer@localhost;

-- Fixed for the procedures, whatever the session has: QUOTE() and the parser must agree about backslashes.
SET SESSION sql_mode = 'STRICT_ALL_TABLES';

DELIMITER //

CREATE OR REPLACE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.look(IN name VARCHAR(255) CHARACTER SET utf8mb4)
  SQL SECURITY DEFINER READS SQL DATA
BEGIN
  SELECT p.Host AS host,
         COALESCE(JSON_VALUE(p.Priv, '$.account_locked') = 1, FALSE) AS locked,
         (u.Super_priv = 'Y' OR u.Create_user_priv = 'Y' OR u.Grant_priv = 'Y') AS administrator,
         (SELECT COUNT(*) FROM information_schema.PROCESSLIST AS s
           WHERE CAST(s.USER AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin = name COLLATE utf8mb4_bin) AS sessions
    FROM mysql.global_priv AS p
    JOIN mysql.user AS u ON u.User = p.User AND u.Host = p.Host
   WHERE CAST(p.User AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin = name COLLATE utf8mb4_bin
     AND u.is_role = 'N'
   ORDER BY p.Host;
END //

CREATE OR REPLACE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.may_touch(
    IN name VARCHAR(255) CHARACTER SET utf8mb4, IN at VARCHAR(255) CHARACTER SET utf8mb4)
  SQL SECURITY DEFINER READS SQL DATA
BEGIN
  IF NOT EXISTS (SELECT 1 FROM mysql.user
                  WHERE CAST(User AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin = name COLLATE utf8mb4_bin
                    AND Host = at AND is_role = 'N' AND Super_priv = 'N' AND Create_user_priv = 'N' AND Grant_priv = 'N'
                    AND User NOT IN ('mariadb.sys', 'exfilguard_definer', 'exfilguard_hook')) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'exfilguard: no ordinary account';
  END IF;
END //

CREATE OR REPLACE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.lock_account(
    IN name VARCHAR(255) CHARACTER SET utf8mb4, IN at VARCHAR(255) CHARACTER SET utf8mb4)
  SQL SECURITY DEFINER MODIFIES SQL DATA
BEGIN
  CALL exfilguard.may_touch(name, at);
  EXECUTE IMMEDIATE CONCAT('ALTER USER ', QUOTE(name), '@', QUOTE(at), ' ACCOUNT LOCK');
END //

CREATE OR REPLACE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.unlock_account(
    IN name VARCHAR(255) CHARACTER SET utf8mb4, IN at VARCHAR(255) CHARACTER SET utf8mb4)
  SQL SECURITY DEFINER MODIFIES SQL DATA
BEGIN
  CALL exfilguard.may_touch(name, at);
  EXECUTE IMMEDIATE CONCAT('ALTER USER ', QUOTE(name), '@', QUOTE(at), ' ACCOUNT UNLOCK');
END //

CREATE OR REPLACE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.end_sessions(IN name VARCHAR(255) CHARACTER SET utf8mb4)
  SQL SECURITY DEFINER MODIFIES SQL DATA
BEGIN
  DECLARE ended INT DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLSTATE '45000' RESIGNAL;
  IF EXISTS (SELECT 1 FROM mysql.user
              WHERE CAST(User AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin = name COLLATE utf8mb4_bin
                AND (Super_priv = 'Y' OR Create_user_priv = 'Y' OR Grant_priv = 'Y'
                     OR User IN ('exfilguard_definer', 'exfilguard_hook'))) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'exfilguard: no ordinary account';
  END IF;
  FOR s IN (SELECT ID AS thread FROM information_schema.PROCESSLIST
             WHERE CAST(USER AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin = name COLLATE utf8mb4_bin)
  DO
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;   -- it has gone by itself meanwhile
      EXECUTE IMMEDIATE CONCAT('KILL CONNECTION ', s.thread);
      SET ended = ended + 1;
    END;
  END FOR;
  SELECT ended;
END //

DELIMITER ;

CREATE USER IF NOT EXISTS exfilguard_hook@'%' IDENTIFIED VIA mysql_native_password USING 'invalid';
ALTER USER exfilguard_hook@'%' WITH MAX_USER_CONNECTIONS 10;
GRANT EXECUTE ON PROCEDURE exfilguard.look TO exfilguard_hook@'%';
GRANT EXECUTE ON PROCEDURE exfilguard.lock_account TO exfilguard_hook@'%';
GRANT EXECUTE ON PROCEDURE exfilguard.unlock_account TO exfilguard_hook@'%';
GRANT EXECUTE ON PROCEDURE exfilguard.end_sessions TO exfilguard_hook@'%';
