#!/bin/sh
# Makes ./secrets for docker-compose.yml: a CA, certificates, passwords and keys, each readable by the one who needs it. What is
# there already stays. Run as root where containers run as other users (docker without user namespaces):
#   sudo deploy/compose/prepare.sh [DIRECTORY]
set -eu
umask 077
dir=${1:-secrets}
days=${DAYS:-397}
mkdir -p "$dir/passwords" "$dir/frame-keys" "$dir/admin" "$dir/console" "$dir/alertmanager"
cd "$dir"

random() { openssl rand -hex 24; }

keep() { # keep FILE: a random secret, made once
  [ -s "$1" ] || random > "$1"
}

certificate() { # certificate NAME DIRECTORY ALTERNATIVE_NAMES
  [ -s "$2/$1.pem" ] && return
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$2/$1.key" -out "$2/$1.csr" 2>/dev/null
  printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=%s\n' "$3" > "$2/$1.ext"
  openssl x509 -req -in "$2/$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days "$days" -sha256 -extfile "$2/$1.ext" -out "$2/$1.pem" 2>/dev/null
  rm -f "$2/$1.csr" "$2/$1.ext"
}

if [ ! -s ca.pem ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=ExfilGuard installation CA" -days 3650 \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem 2>/dev/null
fi
for n in 1 2 3; do
  mkdir -p "kafka-$n"
  certificate "kafka-$n" "kafka-$n" "DNS:kafka-$n"
  cat "kafka-$n/kafka-$n.key" "kafka-$n/kafka-$n.pem" > "kafka-$n/keystore.pem"
  cp ca.pem "kafka-$n/ca.pem"
done
certificate kafka-admin admin DNS:kafka-admin
cp ca.pem admin/ca.pem
certificate console console "DNS:localhost,DNS:${CONSOLE_NAME:-console}"
for user in sidecar-east sidecar-west detector responder console archive operator; do keep "passwords/$user.password"; done
for sidecar in east west; do keep "frame-keys/$sidecar.key"; done
keep digest-key
keep mysql-hook
keep grafana-admin
for name in catalog-dsn hook-dsn; do
  [ -s "$name" ] || echo "host=postgres.my-hospital.example dbname=dpi user=CHANGE-ME password=CHANGE-ME" > "$name"
done
for name in oncall daytime; do
  [ -s "alertmanager/$name.url" ] || echo "https://webhook.my-hospital.example/$name" > "alertmanager/$name.url"
done

if [ "$(id -u)" = 0 ]; then
  chown -R 10001:10001 passwords frame-keys admin console digest-key mysql-hook catalog-dsn hook-dsn
  for n in 1 2 3; do chown -R 1000:1000 "kafka-$n"; done
  chown -R 65534:65534 alertmanager
  chown 472 grafana-admin
else
  echo "note: not root: give these files to the containers' users yourself (10001; Kafka 1000; Alertmanager 65534; Grafana 472)" >&2
fi
chmod 644 ca.pem
chmod 711 .
echo "$dir is ready. Edit: catalog-dsn, hook-dsn, mysql-hook (the hook accounts' passwords), alertmanager/*.url."
echo "Keep ca.key elsewhere: who has it can be any broker, or the administrator."
