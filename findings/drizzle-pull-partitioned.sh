#!/usr/bin/env bash
# PostgreSQL 17.12 with drizzle-kit 0.31.11: pull leaves a partitioned table out, and its partition's SQL does not run
#
# Seen with PostgreSQL 17.12 (Debian trixie) and drizzle-kit 0.31.11, drizzle-orm 0.45.4, pg 8.23.1 (npm), Node.js 20.
#
# A table with an identity column is partitioned, its columns are of domains named for media types.
# - The pulled schema has the partition as an ordinary table and the sequence of the identity column, but not the
#   partitioned table: there is nothing to query or to insert into but one of its partitions.
# - The partition's identity column, which has no sequence of its own, is pulled with the name "null" and null for
#   every option, and the migration written beside it repeats them, which PostgreSQL refuses.
# - A domain is known by how its name begins: "text/plain" becomes text, of whatever type it is (here bytea), and
#   "*/*" becomes unknown("any"), a function that the file neither has nor imports.
#
# Wrong guess: the partitioned table is pulled as an ordinary one, without partitions, and domains as their base types.
set -euo pipefail

suite=trixie
major=17
packages=(postgresql-17=17.12-0+deb13u1)
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
create domain "text/plain" as bytea;
create domain "*/*" as bytea;
create table entry (id int generated always as identity, region int, page "text/plain", "any" "*/*")
    partition by list (region);
create table entry_1 partition of entry for values in (1);
END
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund drizzle-kit@0.31.11 drizzle-orm@0.45.4 pg@8.23.1 >/dev/null
cat >drizzle.config.js <<END
module.exports = {
    dialect: 'postgresql', out: './out', dbCredentials: { host: '$root/tmp', user: 'postgres', database: 'postgres', ssl: false },
};
END
npx drizzle-kit pull >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
{
    grep -vE '^(import|$)' out/schema.ts
    echo "its migration in a new database"
    sql <<<"create database copy"
    sed -e '/^\/\*/d' -e '/^\*\//d' -e 's/--> statement-breakpoint//' out/0000_*.sql | sql copy || true
} >"$dir/seen"
diff -u - "$dir/seen" <<'END'
export const entryIdSeq = pgSequence("entry_id_seq", {  startWith: "1", increment: "1", minValue: "1", maxValue: "2147483647", cache: "1", cycle: false })
export const entry1 = pgTable("entry_1", {
	id: integer().generatedAlwaysAsIdentity({ name: "null", startWith: null, increment: null, minValue: null, maxValue: null }),
	region: integer(),
	page: text(),
	// TODO: failed to parse database type '*/*'
	any: unknown("any"),
});
its migration in a new database
ERROR:  syntax error at or near "null" at character 104
END
echo "as described"
