<?php
// PHP's PDO and pgsql extensions: native and emulated prepares, transactions, large objects, COPY, notices, notifications.
declare(strict_types=1);

$steps = [];
$rows = 0;

function step(string $name, callable $action): void
{
    global $steps;
    try {
        $shown = $action();
    } catch (Throwable $error) {
        $shown = ['error' => get_class($error), 'sqlstate' => (string) $error->getCode(), 'text' => $error->getMessage()];
    }
    $steps[] = [$name, $shown];
}

function got(array $found): array
{
    global $rows;
    $rows += count($found);
    return array_map(fn ($row) => array_map(fn ($v) => is_resource($v) ? bin2hex(stream_get_contents($v)) : $v, (array) $row), $found);
}

$dsn = sprintf('pgsql:host=%s;port=%s;dbname=%s;sslmode=disable', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
$options = [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_NUM];
$c = new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD'), $options);

step('query', fn () => got($c->query('SELECT * FROM patient WHERE id <= 20 ORDER BY id')->fetchAll()));
foreach ([false, true] as $emulated) {
    $c->setAttribute(PDO::ATTR_EMULATE_PREPARES, $emulated);
    step('prepared', function () use ($c) {
        $s = $c->prepare('SELECT id, nom FROM patient WHERE id BETWEEN :a AND :b ORDER BY id');
        $out = [];
        foreach ([1, 50, 290] as $n) {
            $s->execute(['a' => $n, 'b' => $n + 12]);
            $out[] = got($s->fetchAll());
        }
        return $out;
    });
}
step('insert', fn () => $c->exec("INSERT INTO journal (qui, quoi) VALUES ('php', 'p1'), ('php', 'p2')"));
step('last id', fn () => $c->lastInsertId('journal_id_seq'));
$rows += 1;
foreach (['SELECT * FROM nulle_part', 'SELEC 1', "INSERT INTO journal (qui, quoi) VALUES ('php', 'p1')", 'SELECT 1/0'] as $query) {
    step('error', fn () => got($c->query($query)->fetchAll()));
}
step('transaction', function () use ($c) {
    $c->beginTransaction();
    $c->exec("INSERT INTO journal (qui, quoi) VALUES ('php', 'p3')");
    $c->rollBack();
    return got($c->query('SELECT count(*) FROM journal')->fetchAll());
});
step('copy out', function () use ($c) {
    $found = $c->pgsqlCopyToArray('sejour');
    global $rows;
    $rows += count($found);
    return $found;
});
step('copy in', fn () => $c->pgsqlCopyFromArray('journal', ["1001\tphp\tq1\t5\n", "1002\tphp\tq2\t\\N\n"]));
step('large object', function () use ($c) {
    $c->beginTransaction();
    $oid = $c->pgsqlLOBCreate();
    $stream = $c->pgsqlLOBOpen($oid, 'w');
    fwrite($stream, str_repeat('un document ', 500));
    unset($stream);
    $read = $c->pgsqlLOBOpen($oid, 'r');
    $text = stream_get_contents($read);
    unset($read);
    $c->commit();
    return strlen($text);
});
step('bytea', function () use ($c) {
    $s = $c->prepare('SELECT photo, notes FROM patient WHERE id = ?');
    $s->bindValue(1, 17, PDO::PARAM_INT);
    $s->execute();
    return got($s->fetchAll());
});
step('notification', function () use ($c) {
    $c->exec('LISTEN canal');
    $c->exec("NOTIFY canal, 'allo'");
    $found = $c->pgsqlGetNotify(PDO::FETCH_ASSOC, 5000);
    return [$found['message'], $found['payload']];
});
step('unbuffered', function () use ($c) {
    $s = $c->prepare('SELECT id FROM sejour ORDER BY id', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $s->execute();
    $out = [];
    while (count($out) < 20 && ($row = $s->fetch()) !== false) {
        $out[] = $row;
    }
    return got($out);
});
unset($c);

$p = pg_connect(sprintf('host=%s port=%s dbname=%s user=%s password=\'%s\' sslmode=disable', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'), getenv('PGUSER'), getenv('PGPASSWORD')));
step('pg_query_params', fn () => got(pg_fetch_all(pg_query_params($p, 'SELECT id, nom FROM patient WHERE id < $1 ORDER BY id', [9]))));
step('notice', function () use ($p) {
    got(pg_fetch_all(pg_query($p, 'SELECT bavard(9)')));
    return pg_last_notice($p, PGSQL_NOTICE_ALL);
});
step('asynchronous', function () use ($p) {
    pg_send_query($p, 'SELECT 1; SELECT nom FROM patient WHERE id <= 3 ORDER BY id; SELECT 1/0');
    $out = [];
    while ($result = pg_get_result($p)) {
        $out[] = pg_result_status($result) === PGSQL_TUPLES_OK ? got(pg_fetch_all($result)) : pg_result_error_field($result, PGSQL_DIAG_SQLSTATE);
    }
    return $out;
});
step('copy to', function () use ($p) {
    $found = pg_copy_to($p, '(SELECT id, nom FROM patient ORDER BY id LIMIT 30)');
    global $rows;
    $rows += is_array($found) ? count($found) : 0;
    return $found;
});
pg_close($p);
echo json_encode(['steps' => $steps, 'rows' => $rows], JSON_UNESCAPED_UNICODE | JSON_THROW_ON_ERROR), "\n";
