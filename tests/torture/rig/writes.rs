//! What writers do: every way that SQL has to change rows of a table.

use super::chance::Chance;
use super::moments::{self, Known, entry_time};

const COLUMNS: &str = "created_at, device_uuid, host, method, status, source, owner, batch, note";

/// The owner of the rows that all writers write, and how many keys it has.
const SHARED: i32 = -1;
const SHARED_SLOTS: usize = 12;

/// Rows that nobody else touches, so that writers never wait for each other.
pub struct Owned<'a> {
    pub chance: &'a mut Chance,
    pub known: Known,
    pub owner: i32,
}

impl Owned<'_> {
    fn host(&mut self) -> String {
        match self.chance.below(24) {
            0 => "null".into(),
            1 => "''".into(),
            2 => format!("repeat('long', 900) || {}", self.chance.below(3)),
            // Too long to stay in its row, compressed or not.
            3 => format!(
                "(select string_agg(md5((part + {})::text), '') from generate_series(1, 150) part)",
                self.chance.below(3)
            ),
            4 => "'Ünïcödé, it''s \"a\" [b]:c'".into(),
            // Few keys that are busy, many that are not, and ties.
            5..=14 => format!("'h{}'", self.chance.below(6)),
            _ => format!("'h{}'", self.chance.below(40)),
        }
    }

    fn status(&mut self) -> &'static str {
        self.chance.pick(&["null", "0", "99", "100", "200", "204", "301", "404", "500", "599", "600", "-200"])
    }

    fn source(&mut self) -> &'static str {
        self.chance.pick(&["null", "'unknown'", "'vpn'", "'pac'", "'cdp'", "''"])
    }

    fn device_key(&mut self) -> String {
        format!("md5('{}-{}')::uuid", self.owner, self.chance.below(3))
    }

    fn device(&mut self) -> String {
        if self.chance.once_in(6) {
            return "null".into();
        }
        format!("(select device_uuid from public.devices where device_uuid = {})", self.device_key())
    }

    fn batch(&mut self) -> String {
        let (owner, n) = (self.owner, self.chance.below(3));
        format!("(select n from test.batches where owner = {owner} and n = {n})")
    }

    fn time(&mut self) -> String {
        entry_time(self.chance, self.known)
    }

    /// A time where DEFAULT cannot stand.
    fn moment(&mut self) -> String {
        let time = self.time();
        if time == "default" { "now()".into() } else { format!("{time}::timestamptz") }
    }

    fn note(&mut self) -> &'static str {
        match self.chance.below(24) {
            0 | 1 => "'look'",
            2 => "'ask'",
            3 => "'more'",
            _ => "null",
        }
    }

    fn values(&mut self) -> String {
        let (time, device, host, status) = (self.time(), self.device(), self.host(), self.status());
        let (source, owner, batch, note) = (self.source(), self.owner, self.batch(), self.note());
        format!("({time}, {device}, {host}, 'GET', {status}, {source}, {owner}, {batch}, {note})")
    }

    fn some(&mut self) -> String {
        match self.chance.below(4) {
            0 => format!("owner = {}", self.owner),
            1 => format!("owner = {} and created_at < now() - interval '23 hours'", self.owner),
            _ => format!("owner = {} and id % 4 = {}", self.owner, self.chance.below(4)),
        }
    }

    fn change(&mut self) -> String {
        match self.chance.below(10) {
            0 | 1 => format!("created_at = {}", self.moment()),
            2 => "created_at = created_at + interval '1 hour'".into(),
            3 => format!("created_at = created_at - interval '{} ms'", self.chance.below(4000)),
            4 => format!("host = {}", self.host()),
            5 => format!("status = {}, source = {}", self.status(), self.source()),
            6 => format!("device_uuid = {}", self.device()),
            7 => "note = 'x', method = 'PUT'".into(),
            8 => "host = source, source = host".into(),
            _ => format!("created_at = {}, host = {}", self.moment(), self.host()),
        }
    }

    /// One statement.
    pub fn statement(&mut self) -> String {
        let place = if self.chance.once_in(16) { 30 + self.chance.below(5) } else { self.chance.below(30) };
        match place {
            0..=5 => format!("insert into public.entries ({COLUMNS}) values {}", self.values()),
            6..=8 => {
                let rows: Vec<String> = (0..2 + self.chance.below(8)).map(|_| self.values()).collect();
                format!("insert into public.entries ({COLUMNS}) values {}", rows.join(", "))
            }
            9 => self.insert_select(),
            10..=12 => self.upsert(),
            13..=15 => self.merge(),
            16..=21 => format!("update public.entries set {} where {}", self.change(), self.some()),
            22..=24 => format!("delete from public.entries where {}", self.some()),
            25 => self.cascade(),
            26 => self.come_back(),
            27 => self.inside_a_cte(),
            28 => {
                format!(
                    "update public.entries set {} where {} and (id % 8 > 0 or test.agree())",
                    self.change(),
                    self.some()
                )
            }
            29 => self.as_replica(),
            30 | 31 => self.late_batch(),
            32 => self.late_loop(),
            33 => self.between_rows(),
            _ => self.beside_a_cursor(),
        }
    }

    /// The `n`th of rows that come a minute, an hour, up to a day or more than a day late, and that reach back so far.
    fn late_moment(&mut self, count: usize) -> String {
        let clock = moments::clock(self.known);
        let late = self.chance.pick(&[
            "interval '60 s' + n * interval '1 ms'",
            "interval '60 s' + n * interval '1 s'",
            "interval '1 hour' + n * interval '50 ms'",
            "n * interval '24 hours' / {count}",
            "interval '24 hours' - n * interval '100 ms'",
            "interval '1 day' + n * interval '7 min'",
            "interval '20 days' + n * interval '1 s'",
        ]);
        format!("{clock} - ({})", late.replace("{count}", &count.to_string()))
    }

    /// 50 to 300 late rows in one statement.
    pub fn late_batch(&mut self) -> String {
        let count = 50 + self.chance.below(251);
        let (moment, owner) = (self.late_moment(count), self.owner);
        let (hosts, status, source) = (1 + self.chance.below(60), self.status(), self.source());
        let note = self.note();
        format!(
            "with late as (select n from generate_series(1, {count}) n)
             insert into public.entries ({COLUMNS})
             select {moment}, null, 'h' || n % {hosts}, null, {status}, {source}, {owner}, null,
                    case when n = 7 then {note} end
               from late"
        )
    }

    /// Rows in a subtransaction each, of which some are taken back, and perhaps all.
    fn late_loop(&mut self) -> String {
        let count = 10 + self.chance.below(50);
        let (moment, some) = (self.late_moment(count), self.some());
        let (owner, change) = (self.owner, self.change());
        let (often, seldom) = (2 + self.chance.below(4), 5 + self.chance.below(6));
        let (before, after) = (self.late_batch(), self.late_batch());
        let before = if self.chance.once_in(3) { before } else { "null".into() };
        let after = if self.chance.once_in(3) { after } else { "null".into() };
        let end = if self.chance.once_in(4) { "raise 'all taken back'" } else { "null" };
        format!(
            "do $$ begin
                 {before};
                 for n in 1..{count} loop
                     begin
                         insert into public.entries (created_at, host, status, source, owner)
                         values ({moment}, 'h' || n % 9, 200, 'vpn', {owner});
                         if n % {seldom} = 0 then
                             begin
                                 update public.entries set {change} where {some} and id % 5 = n % 5;
                                 if n % 2 = 0 then raise 'the update taken back'; end if;
                             exception when raise_exception then
                                 perform test.agree();
                             end;
                         end if;
                         if n % {often} = 0 then raise 'taken back'; end if;
                     exception when raise_exception then null;
                     end;
                 end loop;
                 {after};
                 {end};
             exception when raise_exception then
                 perform test.agree();
             end $$"
        )
    }

    /// Late rows between the rows of a query that asks. Its rows are fetched by ten and by fifty.
    fn between_rows(&mut self) -> String {
        let (moment, owner) = (self.late_moment(70), self.owner);
        format!(
            "do $$
             declare n int;
             begin
                 for n in select g from generate_series(1, 70) g where g % 20 <> 11 or test.agree_in_query() loop
                     insert into public.entries (created_at, host, owner) values ({moment}, 'between', {owner});
                 end loop;
             end $$"
        )
    }

    /// A cursor asks under the snapshot that it was opened with, and rows come between that and its answers.
    fn beside_a_cursor(&mut self) -> String {
        let (before, after, last) = (self.late_batch(), self.late_batch(), self.values());
        format!(
            "{before};
             declare asking cursor for select test.agree_in_query() from generate_series(1, 3);
             fetch asking;
             {after};
             fetch asking;
             insert into public.entries ({COLUMNS}) values {last};
             fetch all from asking;
             close asking"
        )
    }

    /// A whole transaction. PostgreSQL asks the cursor for what it has not given yet when that commits.
    pub fn beside_a_held_cursor(&mut self) -> String {
        let (before, after) = (self.late_batch(), self.late_batch());
        let fetch = if self.chance.once_in(2) { "fetch held;" } else { "" };
        format!(
            "begin;
             {before};
             declare held cursor with hold for select test.agree_in_query() from generate_series(1, 3);
             {fetch}
             {after};
             commit;
             fetch all from held;
             close held"
        )
    }

    /// A statement on keys that others write too. In one statement they come in order, so that two never wait for each
    /// other. Where entries are partitioned a key has its entry time.
    pub fn shared(&mut self, tree: bool) -> String {
        let slot = self.chance.below(SHARED_SLOTS);
        match self.chance.below(10) {
            0 => return format!("delete from public.entries where owner = {SHARED} and slot = {slot}"),
            1 => {
                let host = self.host();
                return format!(
                    "update public.entries set host = {host} where owner = {SHARED} and slot = {slot}"
                );
            }
            _ => {}
        }
        let rows = (slot..SHARED_SLOTS).take(1 + self.chance.below(6)).map(|slot| {
            let time = match slot {
                _ if !tree => self.time(),
                0..3 => "date_trunc('minute', clock_timestamp())".into(),
                _ => format!("test.day({}) + interval '{slot} hours'", slot as i64 % 6 - 2),
            };
            format!("({time}, {}, {SHARED}, {slot})", self.host())
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        let action = self.chance.pick(&[
            "do nothing",
            "do nothing",
            "do update set created_at = excluded.created_at, host = excluded.host",
            "do update set host = excluded.host, source = 'again'",
            "do update set source = 'again' where public.entries.source is distinct from 'again'",
        ]);
        let key = if tree { "owner, slot, created_at" } else { "owner, slot" };
        format!(
            "insert into public.entries (created_at, host, owner, slot) values {rows} on conflict ({key}) {action}"
        )
    }

    fn insert_select(&mut self) -> String {
        let (moment, host, owner) = (self.moment(), self.host(), self.owner);
        let inside = if self.chance.once_in(3) { "test.agree()::text" } else { "null" };
        let (count, step) =
            (1 + self.chance.below(12), self.chance.pick(&["1 microsecond", "1 second", "2 hours"]));
        format!(
            "insert into public.entries ({COLUMNS})
             select {moment} - n * interval '{step}', null, {host}, null, 100 * n, 'vpn', {owner}, null, {inside}
               from generate_series(1, {count}) n"
        )
    }

    fn upsert(&mut self) -> String {
        let (time, host, owner) = (self.time(), self.host(), self.owner);
        let (slot, other) = (self.chance.below(4), 4 + self.chance.below(4));
        let action = self.chance.pick(&[
            "do nothing",
            "do update set created_at = excluded.created_at, host = excluded.host",
            "do update set source = 'again' where public.entries.source is distinct from 'again'",
        ]);
        format!(
            "insert into public.entries (created_at, host, owner, slot)
             values ({time}, {host}, {owner}, {slot}), (default, {host}, {owner}, {other})
             on conflict (owner, slot) {action}"
        )
    }

    fn merge(&mut self) -> String {
        let (moment, host, owner, slot) = (self.moment(), self.host(), self.owner, self.chance.below(6));
        let matched = self.chance.pick(&[
            "when matched and e.slot % 2 = 0 then update set created_at = v.time, host = v.host
             when matched then delete",
            "when matched then update set created_at = v.time",
            "when matched and e.slot = 3 then do nothing when matched then update set host = v.host, status = 404",
        ]);
        format!(
            "merge into public.entries e
             using (values ({owner}, {slot}, {moment}, {host}), ({owner}, {slot} + 1, now(), 'merged')) v (owner, slot, time, host)
                on e.owner = v.owner and e.slot = v.slot
             {matched}
             when not matched then insert (created_at, host, owner, slot) values (v.time, v.host, v.owner, v.slot)"
        )
    }

    fn cascade(&mut self) -> String {
        if self.chance.once_in(2) {
            return format!("delete from public.devices where device_uuid = {}", self.device_key());
        }
        format!("delete from test.batches where owner = {} and n = {}", self.owner, self.chance.below(3))
    }

    /// Devices and batches that cascades have taken.
    fn come_back(&mut self) -> String {
        devices_and_batches(self.owner)
    }

    fn inside_a_cte(&mut self) -> String {
        let (values, some, change) = (self.values(), self.some(), self.change());
        let write = match self.chance.below(3) {
            0 => format!("insert into public.entries ({COLUMNS}) values {values} returning id"),
            1 => format!("update public.entries set {change} where {some} returning id"),
            _ => format!("delete from public.entries where {some} returning id"),
        };
        format!("with written as ({write}) select test.agree(), count(*) from written")
    }

    /// What a logical replica's own triggers would not see.
    fn as_replica(&mut self) -> String {
        let (values, some) = (self.values(), self.some());
        format!(
            "set session_replication_role = replica;
             insert into public.entries ({COLUMNS}) values {values};
             delete from public.entries where {some};
             set session_replication_role = origin"
        )
    }

    /// Rows for COPY, in its text format, without the ends of time.
    pub fn copied(&mut self) -> (String, Vec<String>) {
        let (count, late) = match self.chance.below(5) {
            // A minute, an hour, up to a day, or more than a day late.
            0 => (50 + self.chance.below(251), self.chance.pick(&[60, 3600, 86_400, 40 * 86_400])),
            _ => (1 + self.chance.below(10), 0),
        };
        let rows = (0..count)
            .map(|_| {
                let moment = match late {
                    0 => self.known.now - self.chance.between(-2_000_000, 90_000_000_000),
                    60 | 3600 => self.known.now - late * 1_000_000 - self.chance.between(0, 9_000_000),
                    _ => self.known.now - self.chance.between(60_000_000, late * 1_000_000),
                };
                let time = if late == 0 && self.chance.once_in(9) {
                    "-infinity".into()
                } else {
                    format!("{}", Iso(moment))
                };
                format!(
                    "{time}\th{}\t{}\tcdp\t{}\n",
                    self.chance.below(40),
                    100 * self.chance.below(7),
                    self.owner
                )
            })
            .collect();
        ("copy public.entries (created_at, host, status, source, owner) from stdin".into(), rows)
    }
}

/// What an owner's rows refer to.
pub fn devices_and_batches(owner: i32) -> String {
    format!(
        "insert into public.devices (device_uuid, name, connection_type, last_seen_at)
         select md5('{owner}-' || n)::uuid, 'device ' || n, (array['vpn', 'pac', null])[n + 1], now() - n * interval '3 min'
           from generate_series(0, 2) n
         on conflict do nothing;
         insert into test.batches select {owner}, n from generate_series(0, 2) n on conflict do nothing"
    )
}

/// Microseconds since 2000 as COPY reads them: a day of that year, and the rest as a time zone's offset would not do.
struct Iso(i64);

impl std::fmt::Display for Iso {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Julian days: PostgreSQL reads them, and 2000-01-01 is day 2451545.
        let (day, rest) = (self.0.div_euclid(86_400_000_000), self.0.rem_euclid(86_400_000_000));
        let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "J{} {hours:02}:{minutes:02}:{seconds:02}.{micros:06}+00", 2_451_545 + day)
    }
}
