//! The figures of entries that are not sealed: one pass over all rows for their number, and one over those of the last 24
//! hours for everything else. `stats_recomputed()` does not come here: it asks [`super::oracle`], which is plainer and slower.

use super::attachment::Attachment;
use super::clock::{DAY, HOUR, before};
use super::figures::{Count, Figures, MIX_KEYS};
use crate::pg::query::{Param, Row, select_one, select_prepared};
use crate::pg::relation::{LockedRelation, column_number, column_type};
use crate::pg::scan::extension_version;
use crate::settings;
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

/// What a row of the answer is about, in its first column.
const CLASS: i64 = 0;
const SOURCE: i64 = 1;
const HOST: i64 = 2;

/// Fills in what comes from entries, and gives the busiest devices.
pub fn read_entries(fleet: &Attachment, entries: &LockedRelation, figures: &mut Figures) -> Vec<Count> {
    let total = format!("select count(*) from {}", entries.name);
    figures.total_entries = select_one(&total, &[], |row| row.int(1));
    let params = [
        Param::Timestamp(before(figures.as_of, DAY)),
        Param::Timestamp(figures.as_of),
        Param::Timestamp(before(figures.as_of, HOUR)),
        Param::Int(settings::top_n()),
    ];
    let mut devices = Vec::new();
    for query in queries(fleet, entries) {
        select_prepared(&query, &params, |row: &Row| {
            let (key, count) = (row.text(2), row.int(3));
            match row.int(1) {
                CLASS => {
                    figures.entries_24h += count;
                    figures.entries_1h += row.int(4);
                    figures.status_classes.extend(key.map(|key| Count { key, count }));
                }
                SOURCE => figures.sources.extend(key.map(|key| Count { key, count })),
                HOST => figures.top_domains.extend(key.map(|key| Count { key, count })),
                _ => devices.extend(key.map(|key| Count { key, count })),
            }
        });
    }
    devices
}

/// The queries over the last 24 hours: one where PostgreSQL computes it. Citus has an aggregate computed where the rows are
/// when it is the only one, and takes no grouping sets.
fn queries(fleet: &Attachment, entries: &LockedRelation) -> Vec<String> {
    let [time, host, status, source, device] = fleet.counted_columns().map(quote_identifier);
    let key = |name: &str, column: &str| match column_number(entries.oid, name) {
        number if number > 0 && compares_as_text(column_type(entries.oid, number)) => column.to_owned(),
        _ => format!("({column}::text) collate \"C\""),
    };
    let (host, device) = (key(&fleet.host, &host), key(&fleet.entry_device, &device));
    let class = format!("case when {status} between 100 and 599 then {status} / 100 end");
    let source = format!("(coalesce({source}::text, 'unknown')) collate \"C\"");
    let day = format!("from {} where {time} > $1 and {time} <= $2", entries.name);
    let recent = format!("{time} > $3 and {time} <= $2");

    let mixes = format!(
        "(select 0::int8, class::text, sum(n)::int8, sum(recent)::int8 from mixed group by class)
         union all
         (select 1, source, sum(n)::int8, 0 from mixed group by source order by 3 desc, 2 limit {MIX_KEYS})"
    );
    if extension_version("citus").is_some() {
        let top = |what: i64, key: &str| {
            format!(
                "select {what}::int8, (key::text) collate \"C\", n, 0::int8
                   from (select {key} as key, count(*) as n {day} group by 1) grouped
                  where key is not null and $3 is not null order by n desc, 2 limit $4"
            )
        };
        let mixes = format!(
            "with mixed as materialized (
                 select {class} as class, {source} as source, count(*) as n, count(*) filter (where {recent}) as recent
                   {day} group by 1, 2
             )
             {mixes}"
        );
        return vec![mixes, top(HOST, &host), top(HOST + 1, &device)];
    }
    let top = |what: i64, key: &str| {
        format!(
            "(select {what}, ({key}::text) collate \"C\", n, 0 from grouped
               where part = {what} and {key} is not null order by n desc, 2 limit $4)"
        )
    };
    vec![format!(
        "with grouped as materialized (
             select case when grouping(class) = 0 then {SOURCE} when grouping(host) = 0 then {HOST} else 3 end as part,
                    class, source, host, device, count(*) as n, count(*) filter (where recent) as recent
               from (select {class} as class, {source} as source, {host} as host, {device} as device,
                            {recent} as recent {day}) entry
              group by grouping sets ((class, source), (host), (device))
         ), mixed as (select class, source, n, recent from grouped where part = {SOURCE})
         {mixes}
         union all {} union all {}",
        top(HOST, "host"),
        top(HOST + 1, "device")
    )]
}

/// Whether two values of a type are equal just when they read the same, so that they can be grouped before they are text.
fn compares_as_text(kind: pg_sys::Oid) -> bool {
    matches!(kind, pg_sys::UUIDOID | pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID)
}
