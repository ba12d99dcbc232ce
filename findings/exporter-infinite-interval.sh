#!/usr/bin/env bash
# PostgreSQL 18.6 with postgres_exporter 0.19.1: of all intervals only the infinite ones become a metric
#
# Seen with PostgreSQL 18.6 and prometheus-postgres-exporter 0.19.1-1+b1 (Debian sid).
#
# A query of one's own has an interval, the age of each device's last message, as a GAUGE. PostgreSQL 17 and later know
# intervals without end, so a device never heard of has "infinity". The exporter gets an interval as text and reads the
# text as a number: '00:05:00' and '1 day' are refused, with an error in the log and no sample, but "infinity" is a
# number to it, and so is "-infinity". The only series that there are belong to the devices without a finite age. The
# scrape is good, and the exporter's own metrics, pg_up and both of its errors, are unmoved by what it leaves out.
# A timestamp without end becomes +Inf as well, beside seconds for the others.
#
# Wrong guess: an interval is exported as seconds, and an infinite one is left out or refused.
set -euo pipefail

suite=sid
major=18
packages=(postgresql-18=18.6-3 prometheus-postgres-exporter=0.19.1-1+b1 curl)
settings=
dir=$(mktemp -d)
root=$dir/root
# Runs a command of the unpacked packages as an ordinary user.
run() {
    chroot --userspec=65534:65534 "$root" /usr/bin/env -i LC_ALL=C.UTF-8 PGHOST=/tmp PGUSER=postgres \
        "PATH=/usr/lib/postgresql/$major/bin:/usr/bin:/bin" "$@"
}
trap 'run pg_ctl -D /tmp/data -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT

# Unpack the packages and all that they need into a folder of their own: nothing else on this machine changes.
[ "$(id -u)" = 0 ] || { echo "run this as root: the server runs in a chroot" >&2; exit 2; }
mkdir -p "$dir"/apt/{lists,archives}/partial "$root"/{dev,tmp}
touch "$dir/apt/status"
site=$(apt-get indextargets --format '$(SITE)' | grep -m 1 'debian$')
signed=[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]
echo "deb $signed $site $suite main" >"$dir/apt/sources.list"
[ "$suite" = sid ] || echo "deb $signed $site-security $suite-security main" >>"$dir/apt/sources.list"
get() {
    apt-get -qq -o "Dir::State=$dir/apt" -o "Dir::State::status=$dir/apt/status" -o "Dir::Cache=$dir/apt" \
        -o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
}
get update
get install -y --download-only base-files bash coreutils "${packages[@]}" >/dev/null
for package in "$dir"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
[ -e "$root/bin/sh" ] || ln -s bash "$root/bin/sh"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/urandom" c 1 9
echo 'nobody:x:65534:65534::/:/bin/sh' >"$root/etc/passwd"
chmod 1777 "$root/tmp"

run initdb -D /tmp/data -U postgres -A trust --no-sync >/dev/null
cat >>"$root/tmp/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '/tmp'
dynamic_shared_memory_type = mmap
fsync = off
timezone = UTC
$settings
END
run pg_ctl -D /tmp/data -l /tmp/log -w start >/dev/null
# Runs SQL from standard input in a database, notices without their places included.
sql() { run psql -XAtq -v ON_ERROR_STOP=1 -v VERBOSITY=terse -d "${1:-postgres}" -f - 2>&1 | sed 's/^psql:[^ ]* //'; }

sql <<'END'
create view device as select * from (values
    ('new', '5 minutes'::interval, '2026-01-01 00:05:00+00'::timestamptz),
    ('old', '1 day', '2026-01-02'),
    ('never', 'infinity', 'infinity'),
    ('always', '-infinity', '-infinity')) v (name, age, due);
END
cat >"$root/tmp/queries.yaml" <<'END'
device:
  query: select name, age, due from device
  metrics:
    - name: {usage: LABEL, description: name}
    - age: {usage: GAUGE, description: age of the last message}
    - due: {usage: GAUGE, description: time of the next message}
END
# The shell tells the exporter's process id, so that the exporter can be ended with the server.
run sh -c 'echo $$ >/tmp/exporter.pid; exec "$@"' sh \
    env DATA_SOURCE_NAME='user=postgres host=/tmp dbname=postgres sslmode=disable' prometheus-postgres-exporter \
    --extend.query-path=/tmp/queries.yaml --web.listen-address=127.0.0.1:19187 2>"$dir/log" &
for _ in $(seq 100); do
    ! run curl -sf http://127.0.0.1:19187/metrics >"$dir/metrics" || break
    sleep 0.2
done
kill "$(cat "$root/tmp/exporter.pid")"
{
    sed -nE 's/^(device_\w+)\{name="(\w+)".*\} /\1 \2 /p' "$dir/metrics"
    sed -nE 's/^(pg_up|pg_exporter_last_scrape_error|pg_exporter_user_queries_load_error)(\{.*\})? /\1 /p' "$dir/metrics"
} >"$dir/seen"
diff -u - "$dir/seen" <<'END'
device_age always -Inf
device_age never +Inf
device_due always -Inf
device_due never +Inf
device_due new 1.7672259e+09
device_due old 1.767312e+09
pg_exporter_last_scrape_error 0
pg_exporter_user_queries_load_error 0
pg_up 1
END
echo "as described"
