<?php
// mysqli and PDO (mysqlnd): text and prepared statements, unbuffered results, several results, LOCAL INFILE, change of user.
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$steps = [];
$rows = 0;

function shown($value) {
    if (is_string($value) && strlen($value) > 1000) return strlen($value);
    if (is_string($value) && !preg_match('//u', $value)) return bin2hex($value);
    if (is_array($value)) return array_map('shown', $value);
    return $value;
}

function step(string $name, callable $action): void {
    global $steps;
    try {
        $found = shown($action());
    } catch (mysqli_sql_exception $e) {
        $found = ['error' => $e->getCode(), 'sqlstate' => $e->getSqlState()];
    } catch (PDOException $e) {
        $found = ['error' => $e->errorInfo[1] ?? $e->getCode(), 'sqlstate' => $e->errorInfo[0] ?? ''];
    }
    $steps[] = [$name, $found, []];
}

function env(string $name): string { return getenv($name); }

$m = mysqli_init();
$m->options(MYSQLI_OPT_LOCAL_INFILE, 1);
$m->real_connect('127.0.0.1', env('DBUSER'), env('DBPASSWORD'), env('DBNAME'), (int) env('DBPORT'));
$m->set_charset('utf8mb4');
step('text', fn() => $m->query('SELECT * FROM patient WHERE id <= 15 ORDER BY id')->fetch_all());
step('unbuffered', function () use ($m) {
    $r = $m->query('SELECT id FROM sejour', MYSQLI_USE_RESULT);
    $n = 0;
    while ($r->fetch_row()) $n++;
    $r->free();
    return $n;
});
$p = $m->prepare('SELECT * FROM patient WHERE id <= ? ORDER BY id');
foreach ([3, 8, 0] as $n) {
    step('prepared', function () use ($p, $n) {
        $p->bind_param('i', $n);
        $p->execute();
        return $p->get_result()->fetch_all();
    });
}
$p->close();
step('cursor', function () use ($m) {
    $p = $m->prepare('SELECT id, unite FROM sejour WHERE id <= 40');
    $p->attr_set(MYSQLI_STMT_ATTR_CURSOR_TYPE, MYSQLI_CURSOR_TYPE_READ_ONLY);
    $p->execute();
    $p->bind_result($id, $unite);
    $n = 0;
    while ($p->fetch()) $n += $id;
    $p->close();
    return $n;
});
step('long data', function () use ($m) {
    $p = $m->prepare('SELECT LENGTH(?), 1');
    $null = null;
    $p->bind_param('b', $null);
    for ($i = 0; $i < 3; $i++) $p->send_long_data(0, str_repeat('q', 50000));
    $p->execute();
    $found = $p->get_result()->fetch_all();
    $p->close();
    return $found;
});
step('several', function () use ($m) {
    $found = [];
    $m->multi_query("SELECT 1; INSERT INTO journal (qui) VALUES ('p'); SELECT id FROM patient WHERE id < 4");
    do {
        $r = $m->store_result();
        $found[] = $r ? $r->fetch_all() : $m->affected_rows;
    } while ($m->more_results() && $m->next_result());
    return $found;
});
step('procedure', function () use ($m) {
    $found = [];
    $m->multi_query('CALL deux(4, @t)');
    do {
        $r = $m->store_result();
        if ($r) $found[] = $r->fetch_all();
    } while ($m->more_results() && $m->next_result());
    return [$found, $m->query('SELECT @t')->fetch_all()];
});
foreach (['SELECT * FROM nulle_part', 'SELEC 1', 'SELECT (SELECT id FROM patient)'] as $sql) {
    step('error', fn() => $m->query($sql));
    step('error, prepared', fn() => $m->prepare($sql)->execute());
}
$file = tempnam(sys_get_temp_dir(), 'csv');
file_put_contents($file, implode('', array_map(fn($i) => "f,p$i\n", range(1, 50))));
step('infile', fn() => $m->query("LOAD DATA LOCAL INFILE '$file' INTO TABLE journal FIELDS TERMINATED BY ',' (qui, quoi)"));
unlink($file);
step('ping', fn() => $m->query('DO 1'));
step('stat', fn() => strlen($m->stat()) > 10);
step('change user', function () use ($m) {
    $m->change_user('other', env('DBPASSWORD'), env('DBNAME'));
    return $m->query("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)")->fetch_all();
});
$m->close();
$z = mysqli_init();
$z->real_connect('127.0.0.1', env('DBUSER'), env('DBPASSWORD'), env('DBNAME'), (int) env('DBPORT'), null, MYSQLI_CLIENT_COMPRESS);
step('compressed', fn() => count($z->query('SELECT * FROM patient')->fetch_all()));
$z->close();
step('persistent', function () {
    $m = mysqli_connect('p:127.0.0.1', env('DBUSER'), env('DBPASSWORD'), env('DBNAME'), (int) env('DBPORT'));
    $found = $m->query('SELECT id FROM patient WHERE id < 4')->fetch_all();
    $m->close();
    $m = mysqli_connect('p:127.0.0.1', env('DBUSER'), env('DBPASSWORD'), env('DBNAME'), (int) env('DBPORT'));
    return [$found, $m->query('SELECT @x')->fetch_all()];
});
$dsn = 'mysql:host=127.0.0.1;port=' . env('DBPORT') . ';dbname=' . env('DBNAME') . ';charset=utf8mb4';
foreach ([true, false] as $emulated) {
    $d = new PDO($dsn, env('DBUSER'), env('DBPASSWORD'), [PDO::ATTR_EMULATE_PREPARES => $emulated]);
    step('pdo', fn() => $d->query('SELECT * FROM patient WHERE id <= 9 ORDER BY id')->fetchAll(PDO::FETCH_NUM));
    step('pdo prepared', function () use ($d) {
        $p = $d->prepare('SELECT id, nom FROM patient WHERE id IN (?, ?)');
        $p->execute([4, 7]);
        return $p->fetchAll(PDO::FETCH_NUM);
    });
    step('pdo error', fn() => $d->query('SELECT * FROM nulle_part'));
    step('pdo transaction', function () use ($d) {
        $d->beginTransaction();
        $d->exec("INSERT INTO journal (qui, quoi) VALUES ('d', 'd1')");
        $d->rollBack();
        return $d->query('SELECT COUNT(*) FROM journal')->fetchAll(PDO::FETCH_NUM);
    });
    $d = null;
}
step('wrong password', fn() => new mysqli('127.0.0.1', env('DBUSER'), 'wrong', env('DBNAME'), (int) env('DBPORT')));
echo json_encode(['steps' => $steps, 'rows' => $rows]);
