-- The account of ExfilGuard's MySQL hook, for Oracle's MySQL 8.0.22 and later (MariaDB: hook.sql). Run once as an administrator:
--
--   mysql < hook-mysql8.sql
--   mysql -e "ALTER USER exfilguard_hook@'%' IDENTIFIED BY '...' ACCOUNT UNLOCK"      (it is created locked)
--
-- The hook may EXECUTE the procedures below and nothing else. They run with the rights of `exfilguard_definer`, an account
-- that is locked and that nobody can log in with; they refuse administrators, and quote every name themselves.
-- MySQL prepares from user variables only: each procedure sets @exfilguard_statement itself right before it is prepared.

CREATE DATABASE IF NOT EXISTS exfilguard CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE USER IF NOT EXISTS exfilguard_definer@localhost ACCOUNT LOCK;
GRANT CREATE USER, PROCESS ON *.* TO exfilguard_definer@localhost;
GRANT CONNECTION_ADMIN ON *.* TO exfilguard_definer@localhost;
GRANT SELECT ON mysql.user TO exfilguard_definer@localhost;
GRANT SELECT ON mysql.global_grants TO exfilguard_definer@localhost;
GRANT EXECUTE ON exfilguard.* TO exfilguard_definer@localhost;

-- Fixed for the procedures, whatever the session has: QUOTE() and the parser must agree about backslashes.
SET SESSION sql_mode = 'STRICT_ALL_TABLES';

DROP PROCEDURE IF EXISTS exfilguard.look;
DROP PROCEDURE IF EXISTS exfilguard.may_touch;
DROP PROCEDURE IF EXISTS exfilguard.lock_account;
DROP PROCEDURE IF EXISTS exfilguard.unlock_account;
DROP PROCEDURE IF EXISTS exfilguard.end_sessions;

-- Who may lock, unlock, kill or change others. SYSTEM_USER: nobody without it may touch such an account at all.
CREATE OR REPLACE DEFINER = exfilguard_definer@localhost SQL SECURITY DEFINER VIEW exfilguard.accounts AS
  SELECT CONVERT(u.User USING utf8mb4) COLLATE utf8mb4_bin AS name,
         CONVERT(u.Host USING utf8mb4) COLLATE utf8mb4_bin AS at,
         u.account_locked = 'Y' AS locked,
         (u.Super_priv = 'Y' OR u.Create_user_priv = 'Y' OR u.Grant_priv = 'Y'
          OR EXISTS (SELECT 1 FROM mysql.global_grants AS g
                      WHERE g.USER = u.User AND g.HOST = u.Host
                        AND g.PRIV IN ('SYSTEM_USER', 'CONNECTION_ADMIN', 'ROLE_ADMIN', 'SET_ANY_DEFINER', 'SET_USER_ID'))
         ) AS administrator
    FROM mysql.user AS u
   WHERE u.User NOT IN ('mysql.sys', 'mysql.session', 'mysql.infoschema');
GRANT SELECT ON exfilguard.accounts TO exfilguard_definer@localhost;

DELIMITER //

CREATE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.look(
    IN who VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)
  SQL SECURITY DEFINER READS SQL DATA
BEGIN
  SELECT a.at AS host, a.locked, a.administrator,
         (SELECT COUNT(*) FROM information_schema.PROCESSLIST AS s
           WHERE CONVERT(s.USER USING utf8mb4) COLLATE utf8mb4_bin = who) AS sessions
    FROM exfilguard.accounts AS a
   WHERE a.name = who
   ORDER BY a.at;
END //

CREATE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.may_touch(
    IN who VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, IN at_host VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)
  SQL SECURITY DEFINER READS SQL DATA
BEGIN
  IF NOT EXISTS (SELECT 1 FROM exfilguard.accounts AS a
                  WHERE a.name = who AND a.at = at_host AND NOT a.administrator
                    AND a.name NOT IN ('exfilguard_definer', 'exfilguard_hook')) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'exfilguard: no ordinary account';
  END IF;
END //

CREATE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.lock_account(
    IN who VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, IN at_host VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)
  SQL SECURITY DEFINER MODIFIES SQL DATA
BEGIN
  CALL exfilguard.may_touch(who, at_host);
  SET @exfilguard_statement = CONCAT('ALTER USER ', QUOTE(who), '@', QUOTE(at_host), ' ACCOUNT LOCK');
  PREPARE exfilguard_statement FROM @exfilguard_statement;
  EXECUTE exfilguard_statement;
  DEALLOCATE PREPARE exfilguard_statement;
END //

CREATE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.unlock_account(
    IN who VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, IN at_host VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)
  SQL SECURITY DEFINER MODIFIES SQL DATA
BEGIN
  CALL exfilguard.may_touch(who, at_host);
  SET @exfilguard_statement = CONCAT('ALTER USER ', QUOTE(who), '@', QUOTE(at_host), ' ACCOUNT UNLOCK');
  PREPARE exfilguard_statement FROM @exfilguard_statement;
  EXECUTE exfilguard_statement;
  DEALLOCATE PREPARE exfilguard_statement;
END //

CREATE DEFINER = exfilguard_definer@localhost PROCEDURE exfilguard.end_sessions(
    IN who VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)
  SQL SECURITY DEFINER MODIFIES SQL DATA
BEGIN
  DECLARE ended INT DEFAULT 0;
  DECLARE thread BIGINT UNSIGNED;
  DECLARE no_more BOOLEAN DEFAULT FALSE;
  DECLARE threads CURSOR FOR
    SELECT s.ID FROM information_schema.PROCESSLIST AS s WHERE CONVERT(s.USER USING utf8mb4) COLLATE utf8mb4_bin = who;
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET no_more = TRUE;
  DECLARE EXIT HANDLER FOR SQLSTATE '45000' RESIGNAL;
  IF EXISTS (SELECT 1 FROM exfilguard.accounts AS a
              WHERE a.name = who AND (a.administrator OR a.name IN ('exfilguard_definer', 'exfilguard_hook'))) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'exfilguard: no ordinary account';
  END IF;
  OPEN threads;
  ended_all: LOOP
    FETCH threads INTO thread;
    IF no_more THEN
      LEAVE ended_all;
    END IF;
    BEGIN
      DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;   -- it has gone by itself meanwhile
      KILL CONNECTION thread;
      SET ended = ended + 1;
    END;
  END LOOP;
  CLOSE threads;
  SELECT ended;
END //

DELIMITER ;

CREATE USER IF NOT EXISTS exfilguard_hook@'%' ACCOUNT LOCK;
ALTER USER exfilguard_hook@'%' WITH MAX_USER_CONNECTIONS 10;
GRANT EXECUTE ON PROCEDURE exfilguard.look TO exfilguard_hook@'%';
GRANT EXECUTE ON PROCEDURE exfilguard.lock_account TO exfilguard_hook@'%';
GRANT EXECUTE ON PROCEDURE exfilguard.unlock_account TO exfilguard_hook@'%';
GRANT EXECUTE ON PROCEDURE exfilguard.end_sessions TO exfilguard_hook@'%';
